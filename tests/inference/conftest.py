"""A small drawn slide, taken to its store and to its nuclei once."""

from pathlib import Path

import pytest
from inference_slides import TiledSlide, open_tiled, take_to_store


@pytest.fixture(scope="session")
def tiled_slide(tmp_path_factory) -> TiledSlide:
    return open_tiled(take_to_store(tmp_path_factory.mktemp("tiled"), mpp=0.25))


@pytest.fixture(scope="session")
def whole(tiled_slide, tmp_path_factory) -> Path:
    """The slide's nuclei, detected in one shard on one thread."""
    return tiled_slide.nuclei(tmp_path_factory.mktemp("whole"))
