"""Dense targets against a loop over cells and nuclei."""

import math

import torch

from muse_pipeline.data.targets import BUMP_SIGMAS, REACH_CELLS, dense_targets


def test_equal_to_a_loop():
    generator = torch.Generator().manual_seed(0)
    xy = torch.rand(2, 6, 2, generator=generator) * 40
    xy[1, 4:] = -1e6  # padding
    label = torch.arange(12).reshape(2, 6) % 3
    rays = torch.rand(2, 6, 5, generator=generator)
    target = dense_targets(xy, label, rays, (10, 10), cell_px=4, sigma_px=2.5)
    for b in range(2):
        for row in range(10):
            for column in range(10):
                centre = (column + 0.5) * 4, (row + 0.5) * 4
                distance = [math.dist(centre, point) for point in xy[b].tolist()]
                nearest = distance.index(min(distance))
                x, y = xy[b, nearest].tolist()
                holds = column * 4 <= x < column * 4 + 4 and row * 4 <= y < row * 4 + 4
                bump = 1.0 if holds else min(math.exp(-0.5 * (distance[nearest] / 2.5) ** 2), 0.999)
                assert math.isclose(target.centre[b, 0, row, column], bump, abs_tol=1e-4)
                near = holds or distance[nearest] <= REACH_CELLS * 4
                assert math.isclose(target.weight[b, 0, row, column], bump * near, abs_tol=1e-4)
                if distance[nearest] > BUMP_SIGMAS * 2.5:
                    continue
                assert target.label[b, row, column] == label[b, nearest]
                assert torch.equal(target.rays[b, :, row, column], rays[b, nearest])
                offset = target.offset[b, :, row, column]
                assert torch.allclose(offset, (xy[b, nearest] - torch.tensor(centre)) / 4, rtol=1e-4, atol=1e-4)


def test_a_window_without_nuclei_has_no_targets():
    empty = dense_targets(
        torch.full((1, 1, 2), -1e6), torch.full((1, 1), -1), torch.full((1, 1, 4), math.nan), (4, 4), 4, 2.5
    )
    assert empty.centre.max() == 0
    assert empty.weight.max() == 0


def test_cells_that_no_bump_reaches_say_so():
    xy, rays = torch.tensor([[[2.0, 2.0]]]), torch.ones(1, 1, 4)
    target = dense_targets(xy, torch.tensor([[1]]), rays, (20, 20), cell_px=4, sigma_px=2.5)
    assert target.label[0, 0, 0] == 1
    assert target.label[0, -1, -1] == -1
    assert target.rays[0, :, -1, -1].isnan().all()
    assert target.centre[0, 0, -1, -1] == 0


def test_of_two_nuclei_as_near_the_first_is_taken():
    xy = torch.tensor([[[16.0, 18.0], [20.0, 18.0]]])
    target = dense_targets(xy, torch.tensor([[2, 1]]), torch.ones(1, 2, 4), (10, 10), cell_px=4, sigma_px=2.5)
    assert target.label[0, 4, 4] == 2


def test_nuclei_just_beyond_the_window_darken_its_border():
    xy = torch.tensor([[[-1.0, 2.0]]])
    target = dense_targets(xy, torch.tensor([[0]]), torch.ones(1, 1, 4), (10, 10), cell_px=4, sigma_px=2.5)
    assert math.isclose(target.centre[0, 0, 0, 0], math.exp(-0.5 * (3 / 2.5) ** 2), abs_tol=1e-6)
