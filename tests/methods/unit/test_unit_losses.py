"""Losses of mask-tissue translation compared with closed forms."""

import pytest
import torch

from muse_pipeline.methods.unit.losses import (
    paint_flat,
    painted_loss,
)


def test_a_painted_mask_costs_nothing_and_the_wrong_way_round_costs_most():
    mask = -torch.ones(1, 3, 4, 4)
    mask[:, 1, :2] = 0.2
    dark, pale = torch.tensor([-0.5, -0.6, -0.1]), torch.tensor([0.7, 0.4, 0.6])
    right, wrong = paint_flat(mask, dark, pale), paint_flat(mask, pale, dark)
    assert torch.equal(right[0, :, 0, 0], dark) and torch.equal(right[0, :, 3, 3], pale)
    assert painted_loss(right, mask, dark, pale) == 0
    assert painted_loss(wrong, mask, dark, pale).item() == pytest.approx(
        (pale - dark).mean().item()
    )
    assert painted_loss(right + 0.1, mask, dark, pale).item() == pytest.approx(0.1)
