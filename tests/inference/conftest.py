"""Nuclei of a small drawn slide, and regions of another."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def whole(tiled_slide, once) -> Path:
    """The slide's nuclei, detected in one shard on one thread."""
    return once("whole", tiled_slide.nuclei) / "nuclei.parquet"


@pytest.fixture(scope="session")
def drawn_slide(tmp_path_factory):
    """A slide of islands of tumour in stroma, after `tile`."""
    from region_slides import take_to_store

    return take_to_store(tmp_path_factory.mktemp("drawn_slide"))


@pytest.fixture(scope="session")
def found(drawn_slide, region_model, tmp_path_factory) -> Path:
    """The folder of the slide's regions, mapped as a whole on one thread."""
    from region_slides import regions

    folder = tmp_path_factory.mktemp("regions")
    assert regions(drawn_slide, region_model, folder) == 0
    return folder
