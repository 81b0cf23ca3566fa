"""The losses of dense maps: they are limited to the annotated region, and zero for exact maps."""

import math

import torch

from muse_pipeline.data.augment import LabelledBatch
from muse_pipeline.methods.detector.criterion import DenseCriterion
from muse_pipeline.models.detector import NucleusMaps

SIDE = 16


def test_outside_of_the_region_no_term_has_a_gradient():
    generator = torch.Generator().manual_seed(0)
    region = torch.zeros(1, SIDE, SIDE)
    region[:, :, :8] = torch.arange(8, 0, -1) * 2.0  # distance in um from the border at column 8
    batch = LabelledBatch(
        None,
        None,
        torch.tensor([[[29.0, 22.0], [18.0, 10.0]]]),
        torch.tensor([[0, 1]]),
        torch.ones(1, 2, 4),
        region,
    )
    maps = NucleusMaps(
        *(
            torch.rand(1, n, SIDE, SIDE, generator=generator, requires_grad=True)
            for n in (1, 2, 2, 4)
        )
    )
    DenseCriterion(0.5, torch.ones(2))(maps, batch)["loss"].backward()
    for values in maps:
        assert (values.grad[..., 8:] == 0).all()
        assert (
            values.grad[..., 5, 7].abs().sum() > 0
        )  # the cell of a nucleus, in the rim of the region
    assert (
        maps.centre.grad[0, 0, 8:, 7] == 0
    ).all()  # the rest of the rim does not count as background
    assert (maps.centre.grad[0, 0, 8:, :6] != 0).all()


def test_a_region_that_is_everywhere_changes_nothing():
    generator = torch.Generator().manual_seed(1)
    maps = NucleusMaps(*(torch.rand(1, n, SIDE, SIDE, generator=generator) for n in (1, 2, 2, 4)))
    batch = LabelledBatch(
        None, None, torch.tensor([[[29.0, 22.0]]]), torch.tensor([[0]]), torch.ones(1, 1, 4), None
    )
    criterion = DenseCriterion(0.5, torch.ones(2))
    everywhere = batch._replace(region=torch.full((1, SIDE, SIDE), 99.0))
    assert torch.equal(criterion(maps, batch)["loss"], criterion(maps, everywhere)["loss"])


def test_class_and_rays_are_those_of_the_nucleus_that_the_cell_is_counted_for():
    """Exact maps of two nuclei cost nothing except in the centre map; swapped labels and longer
    rays cost more.
    """
    xy, label = torch.tensor([[[14.0, 22.0], [46.0, 30.0]]]), torch.tensor([[0, 1]])
    rays = torch.tensor([[[2.0, 3.0, 4.0, 5.0], [math.nan] * 4]])
    batch = LabelledBatch(None, None, xy, label, rays, None)
    column = torch.arange(SIDE).expand(1, 1, SIDE, SIDE)
    row = column.transpose(2, 3)
    left = column < SIDE // 2
    own = torch.where(left, xy[0, 0, 0], xy[0, 1, 0]), torch.where(left, xy[0, 0, 1], xy[0, 1, 1])
    offset = torch.cat([own[0] / 4 - column - 0.5, own[1] / 4 - row - 0.5], 1)
    logits = torch.cat([torch.where(left, 40.0, -40.0), torch.where(left, -40.0, 40.0)], 1)
    maps = NucleusMaps(
        torch.zeros(1, 1, SIDE, SIDE),
        offset,
        logits,
        rays[0, 0][:, None, None].expand(1, 4, SIDE, SIDE),
    )
    criterion = DenseCriterion(0.5, torch.ones(2))
    right = criterion(maps, batch)
    assert max(right[name] for name in ("offset", "label", "rays")) < 1e-6
    wrong = criterion(maps, batch._replace(label=label.flip(1), rays=rays + 1))
    assert wrong["label"] > 40
    assert math.isclose(
        wrong["rays"], 1 / 4, rel_tol=1e-5
    )  # 1 um, relative to a mean radius of 4 um


def test_an_unknown_class_teaches_that_it_is_a_nucleus_and_its_outline_and_not_which():
    maps = NucleusMaps(*(torch.zeros(1, n, SIDE, SIDE, requires_grad=True) for n in (1, 2, 2, 4)))
    xy = torch.tensor([[[18.0, 22.0], [46.0, 30.0]]])  # the first has no class
    batch = LabelledBatch(None, None, xy, torch.tensor([[-1, 1]]), torch.ones(1, 2, 4), None)
    DenseCriterion(0.5, torch.ones(2))(maps, batch)["loss"].backward()
    unknown, known = (..., 5, 4), (..., 7, 11)
    assert (maps.label.grad[unknown] == 0).all()
    assert (maps.label.grad[known] != 0).all()
    for values in (maps.centre, maps.rays):
        assert (values.grad[unknown] < 0).all()
