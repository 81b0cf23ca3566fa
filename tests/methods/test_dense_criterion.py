"""Dense supervision keeps to the annotated region."""

import torch

from muse_pipeline.data.augment import LabelledBatch
from muse_pipeline.methods.dense_criterion import DenseCriterion
from muse_pipeline.models.heads import NucleusMaps

SIDE = 16


def test_outside_of_the_region_no_term_has_a_gradient():
    generator = torch.Generator().manual_seed(0)
    region = torch.zeros(1, SIDE, SIDE)
    region[:, :, :8] = torch.arange(8, 0, -1) * 2.0  # um from the border at column 8
    batch = LabelledBatch(
        None, None, torch.tensor([[[29.0, 22.0], [18.0, 10.0]]]), torch.tensor([[0, 1]]), torch.ones(1, 2, 4), region
    )
    maps = NucleusMaps(*(torch.rand(1, n, SIDE, SIDE, generator=generator, requires_grad=True) for n in (1, 2, 2, 4)))
    DenseCriterion(0.5, torch.ones(2))(maps, batch)["loss"].backward()
    for values in maps:
        assert (values.grad[..., 8:] == 0).all()
        assert values.grad[..., 5, 7].abs().sum() > 0  # the cell of a nucleus in the rim
    assert (maps.centre.grad[0, 0, 8:, 7] == 0).all()  # the rest of the rim is not background
    assert (maps.centre.grad[0, 0, 8:, :6] != 0).all()


def test_a_region_that_is_everywhere_changes_nothing():
    generator = torch.Generator().manual_seed(1)
    maps = NucleusMaps(*(torch.rand(1, n, SIDE, SIDE, generator=generator) for n in (1, 2, 2, 4)))
    batch = LabelledBatch(None, None, torch.tensor([[[29.0, 22.0]]]), torch.tensor([[0]]), torch.ones(1, 1, 4), None)
    criterion = DenseCriterion(0.5, torch.ones(2))
    everywhere = batch._replace(region=torch.full((1, SIDE, SIDE), 99.0))
    assert torch.equal(criterion(maps, batch)["loss"], criterion(maps, everywhere)["loss"])
