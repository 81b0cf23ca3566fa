"""Windows, cores and shards divide a plane so that each position is in exactly one core."""

import numpy as np
import pytest

from muse_pipeline.store.grid import Shard, WindowGrid, WindowPart

GRID = WindowGrid((1000, 700), input_px=320, halo_px=32)


def test_every_position_has_exactly_one_owner():
    xy = np.random.default_rng(0).uniform((0, 0), (1000, 700), (2000, 2))
    xy[:4] = (0, 0), (256, 256), (512, 255.999), (999.999, 699.999)
    n_windows = np.prod(GRID.shape)
    owners = np.stack([GRID.owns(xy, window) for window in range(n_windows)])
    assert (owners.sum(0) == 1).all()


def test_windows_are_numbered_row_by_row_with_halo_outside_the_core():
    assert GRID.shape == (3, 4)
    assert GRID.core_xy(5).tolist() == [256, 256]
    assert GRID.origin_xy(0).tolist() == [-32, -32]
    assert GRID.origin_xy(np.array([0, 5])).tolist() == [[-32, -32], [224, 224]]


def test_depth_is_positive_inside_and_negative_outside_by_the_largest_distance():
    depth = GRID.depth_px(
        np.array([(10.0, 100.0), (-3.0, 100.0), (-3.0, 260.0), (128.0, 128.0)]), 0
    )
    assert depth.tolist() == [10, -3, -4, 128]


@pytest.mark.parametrize("offset_px", [0, 100])
def test_field_of_view_is_that_of_all_windows_whose_core_touches_a_rectangle(offset_px):
    grid = WindowGrid((1000, 700), input_px=320, halo_px=32, offset_px=offset_px)
    windows = np.arange(np.prod(grid.shape))
    corners = np.random.default_rng(0).uniform((0, 0), (900, 600), (50, 2, 2))
    for low, high in np.sort(corners, axis=1):
        touched = windows[grid.touches(windows, low, high)]
        points = np.random.default_rng(1).uniform(low, high, (500, 2))
        assert {int(window) for window in windows if grid.owns(points, window).any()} <= set(
            touched.tolist()
        )
        view_low, view_high = grid.field_of_view(low, high)
        assert (grid.origin_xy(touched).min(0) == view_low).all()
        assert (grid.origin_xy(touched).max(0) + 320 == view_high).all()


def test_a_core_does_not_touch_a_rectangle_that_ends_where_it_begins():
    assert GRID.touches(np.array([0, 1, 4]), np.array([0, 0]), np.array([256, 256.5])).tolist() == [
        True,
        False,
        True,
    ]


@pytest.mark.parametrize("offset_px, mask_px", [(0, 16), (128, 16), (100, 13), (96, 27)])
def test_visited_windows_are_those_of_a_count_pixel_by_pixel(offset_px, mask_px):
    grid = WindowGrid((1000, 700), 320, 32, offset_px)
    random = np.random.default_rng(mask_px)
    for _ in range(100):
        tissue = random.random((-(-700 // mask_px), -(-1000 // mask_px))) < 0.003
        pixels = np.repeat(np.repeat(tissue, mask_px, 0), mask_px, 1)[:700, :1000]
        y, x = np.nonzero(pixels)
        expected = (y + offset_px) // grid.core_px * grid.shape[1] + (x + offset_px) // grid.core_px
        assert grid.windows_with_tissue(tissue, mask_px).tolist() == np.unique(expected).tolist()


def test_windows_of_a_batch_share_a_part():
    tissue = np.zeros((44, 63), bool)
    tissue[16, 16] = tissue[0, 0] = tissue[2, 3] = True
    first, second = (
        GRID.part(np.array([0]), tissue, 16, 16),
        GRID.part(np.array([5]), tissue, 16, 16),
    )
    assert (first, second) == (WindowPart(32, 32, 96, 80), WindowPart(0, 0, 80, 80))
    assert GRID.part(np.array([0, 5]), tissue, 16, 16) == WindowPart(0, 0, 128, 112)


def test_a_part_ends_with_the_lattice():
    tissue = np.zeros((44, 63), bool)
    tissue[43, 62] = True
    assert GRID.part(np.array([11]), tissue, 16, 16) == WindowPart(224, 176, 48, 48)


def test_an_offset_moves_every_core():
    moved = WindowGrid((1000, 700), 320, 32, offset_px=128)
    assert moved.core_xy(0).tolist() == [-128, -128]
    assert moved.shape == (4, 5)


@pytest.mark.parametrize("count", [1, 3, 16])
def test_shards_partition_the_fixed_batches(count):
    windows = np.arange(3, 40)
    batches = [
        batch for index in range(1, count + 1) for batch in Shard(index, count).batches(windows, 4)
    ]
    whole = Shard(1, 1).batches(windows, 4)
    assert [batch.tolist() for batch in batches] == [batch.tolist() for batch in whole]


def test_a_shard_may_be_empty():
    assert Shard(1, 5).batches(np.array([7]), 4) == []


def test_a_shard_reads_as_it_is_written():
    assert str(Shard.parse("2-of-7")) == "2-of-7"
