"""A store is read as if it were an infinite plane."""

import numpy as np
import pytest
from drawn import ArraySlide

from muse_pipeline.core.errors import StoreError
from muse_pipeline.store.store import PERIOD_PX, continue_axis, open_store
from muse_pipeline.store.write import StoreOptions, write_store
from muse_pipeline.tissue.mask import TissueMask


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store of 600 x 300 grey pixels, all of which are tissue; its last chunk is partial."""
    slide = ArraySlide([np.full((300, 600, 3), 90, np.uint8)])
    path = tmp_path_factory.mktemp("store") / "image-500nm.zarr"
    mask = TissueMask(np.ones((19, 38), bool), np.array([8.0, 8.0]), None, 0.045)
    write_store(slide, slide.info((0.5, 0.5)), mask, path)
    return open_store(path)


@pytest.mark.parametrize(
    "xy, n_inside",
    [
        *((xy, 0) for xy in ((600, 100), (100, 300), (-8, 0), (0, -8), (5000, -900))),
        *(((-7, -7), 1), ((599, 299), 1), ((596, 100), 32), ((508, 100), 64)),
    ],
)
def test_outside_it_is_white(store, xy, n_inside):
    pixels = store.read(xy, (8, 8))
    assert (pixels == 90).all(2).sum() == 64 - (pixels == 255).all(2).sum() == n_inside


@pytest.mark.parametrize("mpp", [0.5, 4.0])
def test_beyond_its_edges_its_outermost_pixels_can_repeat(ramp, mpp):
    store = ramp[0].at(mpp)
    width, height = store.size_px
    whole = store.read((0, 0), store.size_px)
    for xy in ((-PERIOD_PX, 0), (0, -PERIOD_PX), (-2 * PERIOD_PX, -PERIOD_PX)):
        assert (store.read_continued(xy, (PERIOD_PX,) * 2) == whole[:PERIOD_PX, :PERIOD_PX]).all()
    assert (
        store.read_continued((width, height), (PERIOD_PX,) * 2) == whole[-PERIOD_PX:, -PERIOD_PX:]
    ).all()
    assert (store.read_continued((width - 5, 7), (9, 6))[:, :5] == whole[7:13, -5:]).all()
    assert (store.read_continued((3, 7), (9, 6)) == store.read((3, 7), (9, 6))).all()
    around = store.read_continued((-5, -5), (width + 10, height + 10))
    assert around.flags.c_contiguous
    assert (around[5:-5, 5:-5] == whole).all() and (around < 255).all()


def test_a_picture_smaller_than_the_period_repeats_whole():
    assert continue_axis(-4, 12, 3).tolist() == [2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1]


@pytest.fixture(scope="module")
def ramp(tmp_path_factory):
    """A store of 3,000 x 2,600 px at 0.5 um/px whose colour values rise from left to right and from
    top to bottom.
    """
    x, y = np.meshgrid(np.arange(3000), np.arange(2600))
    pixels = np.stack([x * 0.08, y * 0.09, np.full_like(x, 60)], -1).astype(np.uint8)
    slide = ArraySlide([pixels])
    mask = TissueMask(np.ones((163, 188), bool), np.array([8.0, 8.0]), None, 1.95)
    path = tmp_path_factory.mktemp("ramp") / "image-500nm.zarr"
    write_store(slide, slide.info((0.5, 0.5)), mask, path)
    return open_store(path), pixels


@pytest.mark.parametrize("mpp", [0.5, 1.0, 2.0, 4.0, 8.0, 16.0])
def test_at_a_coarser_mpp_it_shows_the_same_positions(ramp, mpp):
    store, pixels = ramp
    coarse, factor = store.at(mpp), round(mpp / 0.5)
    assert (coarse.mpp, coarse.size_px) == (mpp, (-(-3000 // factor), -(-2600 // factor)))
    found = coarse.read((2, 3), (20, 30))
    part = pixels[3 * factor : 33 * factor, 2 * factor : 22 * factor].astype(float)
    expected = part.reshape(30, factor, 20, factor, 3).mean((1, 3))
    assert np.abs(found - expected).max() <= 1.5
    assert (coarse.read((-5, -5), (4, 4)) == 255).all()
    mask, side_px = coarse.tissue
    assert side_px * mpp == 8.0
    assert mask.shape == (163, 188)


def test_tissue_is_at_the_same_positions_at_a_coarser_mpp(tmp_path):
    """A pixel of the label is 17 px wide at 0.46 um/px, but not a whole number of px wide at 0.92
    um/px.
    """
    slide = ArraySlide([np.full((600, 2100, 3), 90, np.uint8)])
    mask = TissueMask(
        np.arange(121) // 8 % 2 == np.zeros((35, 1)), np.array([8.0, 8.0]), None, 0.13
    )
    write_store(
        slide, slide.info((0.46, 0.46)), mask, tmp_path / "image-460nm.zarr", StoreOptions(0.46)
    )
    store = open_store(tmp_path / "image-460nm.zarr")
    xy = np.stack([np.arange(2100), np.full(2100, 300)], 1) + 0.5
    inside = store.in_tissue(xy)
    assert 0 < inside.sum() < 2100
    assert np.array_equal(store.at(0.92).in_tissue(xy / 2), inside)


@pytest.mark.parametrize("mpp", [0.25, 0.75, 1.3])
def test_another_mpp_than_a_multiple_is_rejected(ramp, mpp):
    with pytest.raises(StoreError, match="not an integer multiple"):
        ramp[0].at(mpp)
