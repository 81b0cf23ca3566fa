"""Losses of mask-tissue translation compared with closed forms."""

import math

import pytest
import torch

from muse_pipeline.methods.unit.losses import (
    LeastSquares,
    Logistic,
    cycle_loss,
    paint_flat,
    painted_loss,
    r1_penalty,
    translation_objective,
)


def test_least_squares_are_zero_at_their_targets_and_a_quarter_each_in_between():
    ones, zeros = torch.ones(2, 1, 3, 3), torch.zeros(2, 1, 3, 3)
    assert LeastSquares.of_discriminator(ones, zeros) == 0
    assert LeastSquares.of_generator(ones) == 0
    assert LeastSquares.of_discriminator(ones / 2, ones / 2) == 0.25
    assert LeastSquares.of_generator(zeros) == 0.5


def test_the_logistic_loss_of_undecided_scores():
    zeros = torch.zeros(4, 1)
    assert Logistic.of_discriminator(zeros, zeros) == pytest.approx(2 * math.log(2))
    assert Logistic.of_generator(zeros) == pytest.approx(math.log(2))
    assert Logistic.of_generator(zeros + 20) < 1e-8


def test_r1_of_a_linear_discriminator_is_its_squared_norm():
    torch.manual_seed(0)
    weight = torch.randn(3, 8, 8, requires_grad=True)
    real = torch.randn(5, 3, 8, 8, requires_grad=True)
    penalty = r1_penalty(real, (real * weight).sum((1, 2, 3)), gamma=3.0)
    assert penalty.item() == pytest.approx(1.5 * weight.square().sum().item(), rel=1e-5)
    penalty.backward()
    assert torch.allclose(
        weight.grad, 3 * weight, atol=1e-5
    )  # the penalty trains the discriminator


def test_cycles_that_return_cost_nothing_and_both_directions_count():
    x, y = torch.rand(2, 3, 8, 8), torch.rand(1, 3, 16, 16)
    assert cycle_loss(x, x, y, y) == 0
    assert cycle_loss(x, x + 1, y, y).item() == pytest.approx(0.5)
    assert cycle_loss(x, x, y, y - 1).item() == pytest.approx(0.5)


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


def test_the_objective_is_the_weighted_sum():
    terms = {
        "picture_gan": torch.tensor(2.0),
        "mask_gan": torch.tensor(3.0),
        "cycle": torch.tensor(0.5),
    }
    weights = {"picture_gan": 1.0, "mask_gan": 2.0, "cycle": 10.0, "instances": 6.0, "painted": 0.0}
    found = translation_objective({**terms, "instances": torch.tensor(1.0)}, weights)
    assert found["loss"] == 2 + 6 + 5 + 6
    assert found.keys() == {"loss", *terms, "instances"}
