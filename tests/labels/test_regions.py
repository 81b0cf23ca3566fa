"""Annotated regions: their pixels, and windows that together contain every part exactly once."""

import numpy as np
import pytest
import shapely

from muse_pipeline.labels.region_windows import LEAST_CONTEXT_PX, cut_regions, fill_polygon


@pytest.mark.parametrize("seed", range(5))
def test_filled_pixels_are_those_whose_centre_lies_inside(seed):
    generator = np.random.default_rng(seed)
    angles = np.sort(generator.uniform(0, 2 * np.pi, 25))
    radii = generator.uniform(8, 45, 25)
    star = shapely.Polygon(
        np.stack([50 + radii * np.cos(angles), 47 + radii * np.sin(angles)], 1)
    ).buffer(0)
    shape = star.difference(shapely.Point(50, 47).buffer(6)).union(shapely.box(-20, 60.2, 10.7, 90))
    filled = fill_polygon(shape, origin=(3, -5), size=(80, 99))
    y, x = np.mgrid[:99, :80] + 0.5
    assert np.array_equal(filled, shapely.contains_xy(shape, x + 3, y - 5))


def test_a_small_region_lies_in_a_window_with_context_on_every_side():
    (window,) = cut_regions(shapely.box(3000, 2000, 3224, 2300), (9000, 9000), 1024)
    left, top, right, bottom = window.cell
    assert (left, top) == (3000, 2000)
    assert window.origin == (left - (1024 - (right - left)), top - (1024 - (bottom - top)))
    assert window.size == (2 * 1024 - (right - left), 2 * 1024 - (bottom - top))
    assert window.mask().sum() == 224 * 300


def test_context_ends_with_the_slide():
    (window,) = cut_regions(shapely.box(0, 700, 200, 900), (600, 900), 512)
    assert window.origin == (0, 700 - (512 - 201))
    assert window.size == (200 + 1 + (512 - 201), 200 + (512 - 201))
    assert window.mask().sum() == 200 * 200


def test_cells_share_out_a_large_region():
    region = shapely.Point(1500, 1200).buffer(1000)
    windows = list(cut_regions(region, (4000, 4000), 512))
    assert len(windows) == 16  # each of 4 x 4 cells meets the circle
    xy = np.random.default_rng(0).uniform(400, 2600, (2000, 2))
    owners = sum(window.contains(xy).astype(int) for window in windows)
    assert np.array_equal(owners, shapely.contains_xy(region, *xy.T).astype(int))
    assert sum(window.mask().sum() for window in windows) == pytest.approx(region.area, rel=1e-3)


def test_a_large_region_has_some_context_and_neighbours_are_known_to_be_annotated():
    area = shapely.union(shapely.box(1000, 1000, 1600, 1300), shapely.box(1700, 1000, 1800, 1100))
    large, small = cut_regions(area, (4000, 4000), 640)
    assert large.origin == (1000 - LEAST_CONTEXT_PX, 1000 - (640 - 301))
    assert (
        large.annotated().sum() - large.mask().sum() == (601 + LEAST_CONTEXT_PX - 700) * 100
    )  # the part of the small box that lies in the window of the large box
    assert small.annotated().sum() > small.mask().sum() == 100 * 100


def test_every_vertex_of_a_region_belongs_to_a_cell():
    windows = list(cut_regions(shapely.box(0, 0, 1024, 600), (2000, 2000), 512))
    corners = np.array([[0, 0], [1024, 0], [1024, 600], [0, 600], [512, 300]])
    assert sum(window.contains(corners).astype(int) for window in windows).tolist() == [1] * 5


def test_regions_come_from_top_to_bottom():
    area = shapely.union(shapely.box(0, 500, 100, 600), shapely.box(300, 100, 400, 200))
    assert [window.cell[1] for window in cut_regions(area, (1000, 1000), 256)] == [100, 500]
