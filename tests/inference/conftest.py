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


@pytest.fixture(scope="session")
def drawn_slide(tmp_path_factory):
    """A slide of islands of tumour in stroma, after `tile`."""
    from region_slides import take_to_store

    return take_to_store(tmp_path_factory.mktemp("drawn_slide"))


@pytest.fixture(scope="session")
def region_model(tmp_path_factory) -> Path:
    """A region model that was fitted to drawn textures for a few seconds, as ONNX."""
    from region_slides import export_drawn_model

    return export_drawn_model(tmp_path_factory.mktemp("region_model"))


@pytest.fixture(scope="session")
def found(drawn_slide, region_model, tmp_path_factory) -> Path:
    """The folder of the slide's regions, mapped as a whole on one thread."""
    from region_slides import regions

    folder = tmp_path_factory.mktemp("regions")
    assert regions(drawn_slide, region_model, folder) == 0
    return folder
