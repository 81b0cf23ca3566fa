"""A store is read like an endless plane."""

import numpy as np
import pytest
from drawn import ArraySlide

from muse_pipeline.store.store import open_store
from muse_pipeline.store.write import write_store
from muse_pipeline.tissue.mask import TissueMask


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """600 x 300 grey pixels, all of them tissue; the last chunk is partial."""
    slide = ArraySlide([np.full((300, 600, 3), 90, np.uint8)])
    path = tmp_path_factory.mktemp("store") / "image-500nm.zarr"
    mask = TissueMask(np.ones((19, 38), bool), np.array([8.0, 8.0]), None, 0.045)
    write_store(slide, slide.info((0.5, 0.5)), mask, path)
    return open_store(path)


@pytest.mark.parametrize("xy", [(600, 100), (610, 100), (100, 300), (100, 1000), (-8, 0), (0, -8), (5000, -900)])
def test_outside_it_is_white(store, xy):
    assert (store.read(xy, (8, 8)) == 255).all()


@pytest.mark.parametrize(("xy", "n_inside"), [((-7, -7), 1), ((599, 299), 1), ((596, 100), 32), ((508, 100), 64)])
def test_at_its_edges_it_is_both(store, xy, n_inside):
    assert (store.read(xy, (8, 8)) == 90).all(2).sum() == n_inside
