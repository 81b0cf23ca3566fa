import pickle

import cv2
import numpy as np
import pytest
from scipy.spatial import cKDTree

from muse_pipeline.demo.field import PERIOD_UM, Texture, Window, plan_layout
from muse_pipeline.demo.tissue import cells_in
from muse_pipeline.demo.write import is_blank, paint_block


@pytest.fixture(scope="module")
def corner(tissue):
    """A point in um within the first island."""
    x, y = tissue.layout.islands[0].centre_um
    return float(np.floor(x)) - 40, float(np.floor(y)) - 40


def test_pixels_do_not_depend_on_how_the_slide_is_cut(tissue, corner):
    whole = paint_block(tissue, Window(*corner, 0.25, (600, 280)))
    part = paint_block(tissue, Window(corner[0] + 25, corner[1] + 10, 0.25, (300, 200)))
    assert np.array_equal(whole[40:240, 100:400], part)


def test_one_tissue_at_three_pixel_sizes(tissue, corner):
    small = {}
    for mpp, side in ((0.25, 320), (0.4, 200), (0.5, 160)):
        pixels = paint_block(tissue, Window(*corner, mpp, (side, side)))
        small[mpp] = cv2.resize(pixels, (40, 40), interpolation=cv2.INTER_AREA).astype(float)
    contrast = small[0.25].std()
    assert contrast > 15
    for mpp in (0.4, 0.5):
        shift, _ = cv2.phaseCorrelate(small[0.25][..., 0].copy(), small[mpp][..., 0].copy())
        assert np.abs(shift).max() * 2 < 0.1  # um
        assert np.abs(small[mpp] - small[0.25]).mean() < 0.15 * contrast


def test_truth_at_three_pixel_sizes_is_one(tissue, corner):
    first, *others = (
        np.concatenate(
            [
                cells_in(tissue, island, Window(*corner, mpp, (int(80 / mpp),) * 2))
                for island in islands
            ]
        )
        for mpp, islands in ((mpp, tissue.layout.islands) for mpp in (0.25, 0.4, 0.5))
    )
    assert len(first) > 10
    for cells in others:
        np.testing.assert_allclose(cells["xy_um"], first["xy_um"], atol=1e-6)
        assert np.array_equal(cells["stamp"], first["stamp"])


def test_cells_keep_clear_of_each_other(tissue):
    tree = cKDTree(np.mod(tissue.cells["xy_um"], PERIOD_UM), boxsize=PERIOD_UM)
    assert len(tree.data) > 20_000
    assert not tree.query_pairs(2.0)


def test_the_plan_of_a_large_slide_is_no_larger():
    small, large = (plan_layout(area, PERIOD_UM, np.random.default_rng(0)) for area in (1, 400))
    assert large.size_um[0] > 10 * small.size_um[0] / 2
    assert len(pickle.dumps(large)) == pytest.approx(len(pickle.dumps(small)), rel=0.01)


def test_islands_hold_the_area_asked_for_and_keep_apart():
    layout = plan_layout(20.0, PERIOD_UM, np.random.default_rng(3))
    area = sum(np.pi * np.mean(island.radius_um.astype(float) ** 2) for island in layout.islands)
    assert area / 1e6 == pytest.approx(20.0, rel=1e-3)
    window = Window(0, 0, 40.0, (int(layout.size_um[0] / 40), int(layout.size_um[1] / 40)))
    flat = Texture(np.zeros((8, 8), np.float32), 40.0)
    inside = sum(
        (island.inside_um(*window.centres(), flat) > 0).astype(int) for island in layout.islands
    )
    assert inside.max() == 1
    assert (
        not inside[0].any()
        and not inside[-1].any()
        and not inside[:, 0].any()
        and not inside[:, -1].any()
    )


def test_blank_windows_are_glass(tissue):
    window = Window(0, 0, 0.5, (300, 300))
    assert is_blank(tissue, window)
    pixels = paint_block(tissue, window)
    assert 238 < pixels.mean() < 248 and pixels.std() < 3
