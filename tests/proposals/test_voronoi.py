"""Voronoi labels and the split of a foreground by points."""

import itertools

import numpy as np
from scipy import ndimage

from muse_pipeline.proposals.points import (
    BACKGROUND,
    IGNORED,
    NUCLEUS,
    nearest_point,
    split_mask,
    voronoi_edges,
    voronoi_label,
)

POINTS = np.array([(10.5, 12.5), (40.5, 15.5), (25.5, 45.5), (50.5, 50.5)])
SHAPE = (60, 64)


def runs(values):
    """Number of runs of True."""
    return int((np.diff(values.astype(int), prepend=0) == 1).sum())


def test_a_line_between_neighbours_crosses_one_edge():
    cells = nearest_point(POINTS, SHAPE)
    edges = voronoi_edges(cells)
    n_neighbours = 0
    for one, other in itertools.combinations(range(len(POINTS)), 2):
        column, row = np.floor(np.linspace(POINTS[one], POINTS[other], 400)).astype(int).T
        if set(cells[row, column]) == {one + 1, other + 1}:  # no third cell lies between them
            n_neighbours += 1
            assert runs(edges[row, column]) == 1
    assert n_neighbours >= 4


def test_two_points_have_one_line_one_pixel_wide():
    edges = voronoi_edges(nearest_point(np.array([(5.5, 10.5), (15.5, 10.5)]), (20, 21)))
    assert (edges.sum(1) == 1).all()


def test_cells_without_their_edges_do_not_touch_even_at_corners():
    cells = nearest_point(POINTS, SHAPE)
    parts, n = ndimage.label(~voronoi_edges(cells), np.ones((3, 3)))
    assert n == len(POINTS)
    assert all(len(np.unique(cells[parts == part])) == 1 for part in range(1, n + 1))


def test_the_label_has_three_values_and_points_win_over_edges():
    close = np.array([(10.5, 10.5), (11.5, 10.5)])
    label = voronoi_label(close, (20, 20), mpp=0.25)
    assert set(np.unique(label)) == {BACKGROUND, NUCLEUS, IGNORED}
    assert label[10, 10] == label[10, 11] == NUCLEUS
    assert label[0, 10] == BACKGROUND
    assert label[5, 2] == IGNORED
    assert (voronoi_label(np.zeros((0, 2)), (4, 4), 0.25) == IGNORED).all()


def test_points_on_one_pixel_each_have_a_cell():
    cells = nearest_point(np.full((3, 2), 4.2), (9, 9))
    assert set(np.unique(cells)) == {1, 2, 3}


def test_a_mask_is_split_between_its_points():
    mask = np.zeros((20, 40), bool)
    mask[5:15, 2:22] = True
    mask[5:15, 28:36] = True  # no point here
    instances = split_mask(mask, np.array([(6.5, 10.5), (17.5, 10.5), (38.5, 2.5)]))
    assert set(np.unique(instances)) == {0, 1, 2}
    assert (instances > 0).sum() == mask[:, :25].sum()  # all of the part with points, nothing of the other
    assert instances[10, 6] == 1
    assert instances[10, 17] == 2


def test_a_point_of_another_part_takes_nothing():
    mask = np.zeros((11, 30), bool)
    mask[5, 2:14] = True
    mask[5, 15:28] = True
    instances = split_mask(mask, np.array([(2.5, 5.5), (15.5, 5.5)]))
    assert (instances[5, 2:14] == 1).all()  # its right end is nearer to the other part's point
    assert (instances[5, 15:28] == 2).all()


def test_what_is_cut_off_from_its_point_is_left_out():
    mask = np.zeros((30, 30), bool)
    mask[2:28, 2:6] = mask[24:28, 2:28] = mask[2:28, 24:28] = True  # a U
    points = np.array([(3.5, 3.5), (15.5, 25.5), (25.5, 3.5)])
    instances = split_mask(mask, points)
    assert all(ndimage.label(instances == number)[1] == 1 for number in (1, 2, 3))
