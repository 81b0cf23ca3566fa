"""Outlines of label maps tile the tissue, stay near the cells' edges, and absorb small islands."""

import cv2
import numpy as np
import pytest
import shapely

from muse_pipeline.inference.region_maps import absorb_islands, continue_to_edge, trace_regions


def draw_label(size: int, seed: int, sigma: float) -> np.ndarray:
    """(size, size) uint8: three classes on tissue with gaps."""
    rng = np.random.default_rng(seed)
    kind, tissue = (
        cv2.GaussianBlur(rng.normal(size=(size, size)).astype(np.float32), (0, 0), s)
        for s in (sigma, 3 * sigma)
    )
    label = 1 + (kind > 0) + (kind > kind.std())
    return np.where(tissue > -0.5 * tissue.std(), label, 0).astype(np.uint8)


@pytest.mark.parametrize("seed, sigma, rel", [(0, 4, 0.01), (1, 1.5, 0.01), (2, 0.7, 0.05)])
def test_outlines_tile_the_tissue_within_half_a_cell(seed, sigma, rel):
    label = draw_label(150, seed, sigma)
    absorb_islands(label, 20)
    polygons, number = trace_regions(label)
    assert shapely.is_valid(polygons).all()
    assert shapely.coverage_is_valid(polygons)
    for value in range(3):
        area = shapely.area(polygons[number == value]).sum()
        assert area == pytest.approx((label == value + 1).sum(), rel=rel, abs=20)
    borders = shapely.union_all(shapely.boundary(polygons))
    row, column = np.nonzero(np.pad(label, 1)[1:, 1:-1] != np.pad(label, 1)[:-1, 1:-1])
    middles = shapely.points(column + 0.5, row)
    assert shapely.distance(middles, borders).max() <= 0.5


def test_a_staircase_becomes_a_slope():
    label = np.tri(40, dtype=np.uint8) + 1
    polygons, _ = trace_regions(label)
    assert shapely.get_num_coordinates(polygons).max() < 12


def test_no_tissue_gives_no_outline():
    assert len(trace_regions(np.zeros((5, 5), np.uint8))[0]) == 0


def test_small_islands_and_holes_are_absorbed_and_lone_tissue_stays():
    label = np.zeros((40, 40), np.uint8)
    label[5:35, 5:35] = 1
    label[10:20, 10:20] = 2  # a large island
    label[14:16, 14:16] = 1  # a hole in it
    label[25:27, 25:27] = 2  # an island
    label[1:3, 1:3] = 2  # tissue apart from the rest
    absorb_islands(label, 20)
    assert (label[10:20, 10:20] == 2).all()
    assert (label[25:27, 25:27] == 1).all()
    assert (label[1:3, 1:3] == 2).all()


def test_the_rim_has_the_class_of_the_tissue_beside_it():
    label = np.zeros((30, 30), np.uint8)
    label[2:28, 2:28] = 1  # the class that a model gives glass
    label[5:25, 5:15] = 2
    label[5:25, 15:25] = 1
    continue_to_edge(label, 3)
    assert (label[2:28, 2:15] == 2).all()
    assert (label[2:28, 15:28] == 1).all()
