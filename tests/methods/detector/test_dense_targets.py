"""Dense targets compared with targets computed by a loop over cells and nuclei."""

import math

import torch

from muse_pipeline.methods.detector.criterion import REACH_CELLS, REACH_SIGMAS, dense_targets

CELL_PX, SIGMA_PX = 4, 2.5


def targets_of(*nuclei, side=10):
    return dense_targets(torch.tensor([nuclei]), (side, side), SIGMA_PX)


def test_equal_to_a_loop():
    generator = torch.Generator().manual_seed(0)
    xy = torch.rand(2, 6, 2, generator=generator) * 40
    xy[1, 4:] = -1e6  # padding
    target = dense_targets(xy, (10, 10), SIGMA_PX)
    n_far = 0
    for b in range(2):
        for row in range(10):
            for column in range(10):
                centre = (column + 0.5) * CELL_PX, (row + 0.5) * CELL_PX
                distance = [math.dist(centre, point) for point in xy[b].tolist()]
                nearest = distance.index(min(distance))
                x, y = xy[b, nearest].tolist()
                holds = column * 4 <= x < column * 4 + 4 and row * 4 <= y < row * 4 + 4
                gaussian = (
                    1.0
                    if holds
                    else min(math.exp(-0.5 * (distance[nearest] / SIGMA_PX) ** 2), 0.999)
                )
                assert math.isclose(target.centre[b, 0, row, column], gaussian, abs_tol=1e-5)
                near = holds or distance[nearest] <= REACH_CELLS * CELL_PX
                assert math.isclose(target.weight[b, 0, row, column], gaussian * near, abs_tol=1e-5)
                if distance[nearest] > REACH_SIGMAS * SIGMA_PX:
                    n_far += 1
                    continue
                assert target.nucleus[b, row, column] == nearest
                offset = target.offset[b, :, row, column]
                assert torch.allclose(
                    offset, (xy[b, nearest] - torch.tensor(centre)) / 4, rtol=1e-4, atol=1e-4
                )
    assert 0 < n_far < 100


def test_cells_that_no_peak_reaches_have_no_nucleus():
    target = targets_of([2.0, 2.0], side=20)
    assert target.nucleus[0, 0, 0] == 0
    assert target.nucleus[0, -1, -1] == -1
    assert target.centre[0, 0, -1, -1] == 0
    assert target.weight[0, 0, -1, -1] == 0


def test_of_two_nuclei_as_near_the_first_is_taken():
    assert targets_of([16.0, 18.0], [20.0, 18.0]).nucleus[0, 4, 4] == 0
    assert targets_of([20.0, 18.0], [16.0, 18.0]).nucleus[0, 4, 4] == 0


def test_nuclei_just_beyond_the_window_darken_its_border():
    target = targets_of([-1.0, 2.0])
    assert math.isclose(
        target.centre[0, 0, 0, 0], math.exp(-0.5 * (3 / SIGMA_PX) ** 2), abs_tol=1e-6
    )


def test_a_window_without_nuclei_has_no_targets():
    empty = targets_of([-1e6, -1e6], side=4)
    assert empty.centre.max() == 0
    assert empty.weight.max() == 0
