import pickle

import cv2
import numpy as np
import pytest
from scipy.spatial import cKDTree

from muse_pipeline.demo.field import PERIOD_UM, Texture, Window, smooth_noise
from muse_pipeline.demo.layout import plan_layout
from muse_pipeline.demo.paint import is_blank, paint_block
from muse_pipeline.demo.stamps import RED_CELL, STAMP_UM
from muse_pipeline.demo.tissue import true_nuclei


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
    first, *others = (true_nuclei(tissue, Window(*corner, mpp, (int(80 / mpp),) * 2)) for mpp in (0.25, 0.4, 0.5))
    assert len(first) > 10
    for nuclei, mpp in zip(others, (0.4, 0.5), strict=True):
        np.testing.assert_allclose(nuclei.xy * mpp, first.xy * 0.25, atol=1e-6)
        assert np.array_equal(nuclei.rays, first.rays)


def test_outlines_fit_what_is_drawn(tissue):
    cells = tissue.cells[np.flatnonzero(tissue.cells.kind < RED_CELL)[:60]]
    outlines = tissue.stamps.rays(cells.stamp, cells.angle, cells.mirror, cells.scale, 64)
    angles = np.arange(64) * (2 * np.pi / 64)
    window = Window(0, 0, STAMP_UM, (160, 160))
    for stamp, angle, mirror, scale, rays in zip(
        cells.stamp, cells.angle, cells.mirror, cells.scale, outlines, strict=True
    ):
        (row, column), pressed = tissue.stamps.press(stamp, 10.03, 9.96, angle, mirror, scale, window)
        drawn = pressed[..., 0] > 127
        outline = np.stack([10.03 + rays * np.cos(angles), 9.96 + rays * np.sin(angles)], -1) / STAMP_UM
        expected = np.zeros(drawn.shape, np.uint8)
        cv2.fillPoly(expected, [np.round((outline - [column, row] - 0.5) * 16).astype(np.int32)], 1, shift=4)
        union, common = (drawn | (expected > 0)).sum(), (drawn & (expected > 0)).sum()
        assert common / union > 0.9


def test_cells_keep_clear_of_each_other(tissue):
    tree = cKDTree(np.mod(tissue.cells.xy_um, PERIOD_UM), boxsize=PERIOD_UM)
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
    inside = sum((island.inside_um(*window.centres(), flat) > 0).astype(int) for island in layout.islands)
    assert inside.max() == 1
    assert not inside[0].any() and not inside[-1].any() and not inside[:, 0].any() and not inside[:, -1].any()


def test_blank_windows_are_glass(tissue):
    window = Window(0, 0, 0.5, (300, 300))
    assert is_blank(tissue, window)
    pixels = paint_block(tissue, window)
    assert 238 < pixels.mean() < 248 and pixels.std() < 3


def test_textures_repeat_without_a_seam():
    texture = Texture(smooth_noise(64, 16, np.random.default_rng(0)), 0.5)
    window = Window(-3.3, 29.9, 0.31, (120, 50))
    once, again = texture.view(window), texture.view(window.moved(texture.period_um, -2 * texture.period_um))
    np.testing.assert_allclose(once, again, atol=1e-4)
    x, y = np.broadcast_arrays(*window.centres())
    np.testing.assert_allclose(once, texture.at(x, y), atol=0.12)
    assert np.abs(np.diff(once, axis=1)).max() < 0.5
