"""The losses of PSM's five tasks, each against a slow literal re-derivation."""

import math

import pytest
import torch

from muse_pipeline.losses.psm import (
    contrastive_hinge,
    detached_similarity,
    mean_value_regression,
    rotation_regression,
    rotation_similarity,
)


@pytest.fixture
def outputs():
    """Three times (4, 3): of windows, of the same turned, of others."""
    return torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(0)) * 4


def squared(one, other):
    return sum((a - b) ** 2 for a, b in zip(one.tolist(), other.tolist(), strict=True)) / len(one)


def test_rotation_similarity_is_the_mean_difference(outputs):
    first, turned, _ = outputs
    literal = sum(abs(a - b) for a, b in zip(first.flatten().tolist(), turned.flatten().tolist(), strict=True)) / 12
    assert math.isclose(float(rotation_similarity(first, turned)), literal, rel_tol=1e-5)
    assert float(rotation_similarity(first, first)) == 0


def test_the_hinge_counts_windows_whose_negative_is_not_far_enough(outputs):
    literal = sum(max(squared(x, near) - squared(x, far) + 10, 0) for x, near, far in zip(*outputs, strict=True)) / 4
    assert literal > 0 and math.isclose(float(contrastive_hinge(*outputs)), literal, rel_tol=1e-5)
    assert float(contrastive_hinge(outputs[0], outputs[0], outputs[0] + 100)) == 0


def test_rotation_regression_is_the_squared_error_of_the_turns(outputs):
    output, turns = outputs[0, :, :1], torch.tensor([0, 3, 1, 2])
    literal = sum((a - k) ** 2 for a, k in zip(output[:, 0].tolist(), turns.tolist(), strict=True)) / 4
    assert math.isclose(float(rotation_regression(output, turns)), literal, rel_tol=1e-5)


def test_detached_similarity_has_the_gradient_of_the_side_that_is_not_stopped(outputs):
    first, turned = outputs[0].clone().requires_grad_(), outputs[1].clone().requires_grad_()
    loss = detached_similarity(first, turned)
    loss.backward()
    literal = sum(abs(a - b) for a, b in zip(first.flatten().tolist(), turned.flatten().tolist(), strict=True)) / 12
    assert math.isclose(float(loss.detach()), literal, rel_tol=1e-5)
    sign = (first - turned).detach().sign()
    assert torch.allclose(first.grad, sign / 24) and torch.allclose(turned.grad, -sign / 24)


def test_mean_value_regression_is_the_squared_error_of_the_brightness(outputs):
    pixels = torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(1)) * 255
    output = outputs[0, :, :1]
    literal = 0.0
    for value, window in zip(output[:, 0].tolist(), pixels, strict=True):
        literal += (value - sum(window.flatten().tolist()) / 12 / 255) ** 2 / 4
    assert math.isclose(float(mean_value_regression(output, pixels)), literal, rel_tol=1e-5)
