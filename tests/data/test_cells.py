"""The cells around a nucleus: the nucleus's own cell is in the middle, and cells outside the map
are left out.
"""

import torch

from muse_pipeline.methods.detector.criterion import cells_around


def test_a_square_of_cells_as_far_as_the_map_goes():
    xy = torch.tensor([[[9.0, 1.0], [0.5, 95.9], [-1.0, 5.0], [-1e6, -1e6]]])
    cell, exists = cells_around(xy, (24, 24), reach=1)
    assert cell[0, 0][exists[0, 0]].tolist() == [1, 2, 3, 25, 26, 27]
    assert cell[0, 1][exists[0, 1]].tolist() == [22 * 24, 22 * 24 + 1, 23 * 24, 23 * 24 + 1]
    assert cell[0, 2][exists[0, 2]].tolist() == [0, 24, 48]
    assert not exists[0, 3].any()


def test_the_own_cell_exists_for_nuclei_within_the_map_alone():
    xy = torch.tensor([[[9.0, 1.0], [0.5, 95.9], [-1.0, 5.0], [96.5, 5.0]]])
    cell, exists = cells_around(xy, (24, 24), reach=2)
    assert cell[0, :2, 12].tolist() == [2, 23 * 24]
    assert exists[0, :, 12].tolist() == [True, True, False, False]
