"""The losses of IKD-MIL and GM-MIL compared with closed forms."""

import math

import pytest
import torch

from muse_pipeline.methods.mil.method import (
    fusion_dice,
    image_cross_entropy,
    weighted_cross_entropy,
)

SHAPE = (1, 1, 4, 4)
ALL = torch.ones(SHAPE)


@pytest.mark.parametrize("weighted", [True, False])
def test_value_and_gradient_of_the_cross_entropy_pixel_by_pixel(weighted):
    """Two images with two class maps each; one map is all positive, and one pixel of each map is
    unknown.
    """
    generator = torch.Generator().manual_seed(0)
    prediction = (
        0.1 + 0.8 * torch.rand(2, 2, 2, 3, generator=generator, dtype=torch.double)
    ).requires_grad_()
    target = (torch.rand(2, 2, 2, 3, generator=generator) < 0.5).double()
    target[0, 1], target[0, 0, 0, :2], known = 1, torch.tensor([0.0, 1.0]), torch.ones_like(target)
    known[..., 1, 2] = 0
    expected, gradient = 0.0, torch.zeros_like(target)
    for b, k in ((0, 0), (0, 1), (1, 0), (1, 1)):
        pixels = [(r, c) for r in range(2) for c in range(3) if known[b, k, r, c]]
        of_target = [
            p if target[b, k, r, c] else 1 - p
            for r, c in pixels
            for p in [prediction[b, k, r, c].item()]
        ]
        trust = [1.0] * len(pixels)
        if weighted and 0 < sum(target[b, k, r, c] for r, c in pixels) < len(pixels):
            trust = [
                len(pixels) * p / sum(of_target) for p in of_target
            ]  # the probability is exp(-loss)
        for (r, c), p, weight in zip(pixels, of_target, trust, strict=True):
            expected -= weight * math.log(p) / len(pixels) / 4
            gradient[b, k, r, c] = (-1 if target[b, k, r, c] else 1) * weight / p / len(pixels) / 4
    found = weighted_cross_entropy(prediction, target, known, weighted)
    assert found.item() == pytest.approx(expected)
    torch.testing.assert_close(torch.autograd.grad(found, prediction)[0], gradient)


def test_value_and_gradient_of_the_fused_dice_map_by_map():
    generator = torch.Generator().manual_seed(1)
    maps = [
        torch.rand(2, 1, 2, 3, generator=generator, dtype=torch.double, requires_grad=True)
        for _ in range(2)
    ]
    target, known = (
        torch.rand(2, 1, 2, 3, generator=generator, dtype=torch.double),
        torch.ones(2, 1, 2, 3),
    )
    target[1], known[0, 0, 1] = 0, 0  # for the negative image, complements are compared
    expected = 0.0
    for one in maps:
        for p, t, k in zip(one.flatten(1), target.flatten(1), known.flatten(1), strict=True):
            pair = (p, t) if t.any() else (1 - p, 1 - t)
            overlap, total = (
                sum(v[i] for i in range(6) if k[i]) for v in (pair[0] * pair[1], pair[0] + pair[1])
            )
            expected = expected + (1 - (2 * overlap + 1) / (total + 1)) / 2
    found = fusion_dice(maps, target, known)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    gradients = (torch.autograd.grad(one, maps) for one in (found, expected))
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-6)


def test_image_cross_entropy_judges_only_labelled_images():
    maps = (torch.full((2, 1, 4, 4), 0.25),) * 2
    both = image_cross_entropy(maps, torch.tensor([[1.0], [0.0]]), torch.ones(2, 1))
    assert both.item() == pytest.approx(2 * (-math.log(0.25) - math.log(0.75)) / 2, rel=1e-4)
    one = image_cross_entropy(maps, torch.tensor([[1.0], [0.0]]), torch.tensor([[1.0], [0.0]]))
    assert one.item() == pytest.approx(2 * -math.log(0.25), rel=1e-4)
