import pickle

import cv2
import numpy as np
import pytest
from scipy.spatial import cKDTree

from muse_pipeline.demo.field import PERIOD_UM, Texture, Window, plan_layout, smooth_noise
from muse_pipeline.demo.tissue import STAMP_UM, cells_in
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


def test_a_stamp_is_drawn_at_its_position_with_its_axes(tissue):
    for cell in tissue.cells[:60]:
        x, y, window = 15.03, 14.96, Window(0, 0, STAMP_UM, (240, 240))
        shape = cell["angle"], cell["mirror"], cell["scale"]
        (row, column), pressed = tissue.stamps.press(cell["stamp"], x, y, *shape, window)
        rows, columns = np.nonzero(pressed[..., 0] > 127)
        centre = np.array([columns.mean() + column + 0.5, rows.mean() + row + 0.5]) * STAMP_UM
        np.testing.assert_allclose(centre, [x, y], atol=1.0)
        area = np.pi * np.prod(tissue.stamps.axes_um[cell["stamp"]] * cell["scale"])
        assert len(rows) * STAMP_UM**2 == pytest.approx(area, rel=0.25)
        along = np.array([np.cos(cell["angle"]), np.sin(cell["angle"])])
        offsets = np.stack([columns + column + 0.5, rows + row + 0.5], -1) * STAMP_UM - [x, y]
        if np.ptp(tissue.stamps.axes_um[cell["stamp"]]) > 2:
            assert np.ptp(offsets @ along) > np.ptp(offsets @ (along[::-1] * [-1, 1]))


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


def test_textures_repeat_without_a_seam():
    texture = Texture(smooth_noise(64, 16, np.random.default_rng(0)), 0.5)
    window = Window(-3.3, 29.9, 0.31, (120, 50))
    once, again = texture.view(window), texture.view(window.moved(32.0, -64.0))
    np.testing.assert_allclose(once, again, atol=1e-4)
    x, y = np.broadcast_arrays(*window.centres())
    np.testing.assert_allclose(once, texture.at(x, y), atol=0.12)
    assert np.abs(np.diff(once, axis=1)).max() < 0.5
