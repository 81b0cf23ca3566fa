"""Fixtures: the nuclei of a small synthetic slide, and the regions of a different synthetic
slide.
"""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def whole(tiled_slide, once) -> Path:
    """The table of nuclei of ``tiled_slide``, detected in one shard on one thread."""
    return once("whole", tiled_slide.nuclei) / "nuclei.parquet"


@pytest.fixture(scope="session")
def drawn_slide(once):
    """A slide with islands of tumour in stroma, after `tile`."""
    from region_slides import open_drawn, take_to_store

    return open_drawn(once("drawn_slide", take_to_store))


@pytest.fixture(scope="session")
def found(drawn_slide, region_model, once) -> Path:
    """The folder with the regions of ``drawn_slide``."""
    from region_slides import regions

    def map_regions(folder: Path) -> None:
        assert regions(drawn_slide, region_model, folder) == 0

    return once("regions", map_regions)
