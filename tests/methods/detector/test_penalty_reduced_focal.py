"""The focal loss compared with equation 1 of its paper, written out literally."""

import math

import torch

from muse_pipeline.methods.detector.criterion import penalty_reduced_focal


def literal(logit, target, weight, alpha=2, beta=4):
    total, positives = 0.0, 0.0
    for x, y, w in zip(
        logit.flatten().tolist(), target.flatten().tolist(), weight.flatten().tolist(), strict=True
    ):
        p = 1 / (1 + math.exp(-x))
        if y >= 1:
            total -= w * (1 - p) ** alpha * math.log(p)
            positives += w
        else:
            total -= w * (1 - y) ** beta * p**alpha * math.log(1 - p)
    return total / max(positives, 1)


def test_equals_the_equation():
    generator = torch.Generator().manual_seed(0)
    logit = torch.randn(2, 1, 7, 5, generator=generator) * 3
    target = torch.rand(2, 1, 7, 5, generator=generator)
    target[0, 0, 2, 2] = target[1, 0, 4, 1] = 1
    weight = (torch.rand(2, 1, 7, 5, generator=generator) > 0.2).float()
    assert math.isclose(
        float(penalty_reduced_focal(logit, target, weight)),
        literal(logit, target, weight),
        rel_tol=1e-5,
    )


def test_a_picture_without_nuclei_has_a_finite_loss():
    logit = torch.zeros(1, 1, 4, 4, requires_grad=True)
    loss = penalty_reduced_focal(logit, torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4))
    loss.backward()
    assert math.isclose(float(loss), 16 * 0.25 * math.log(2), rel_tol=1e-5)
    assert torch.isfinite(logit.grad).all()


def test_nothing_is_learned_where_nothing_is_known():
    logit = torch.zeros(1, 1, 4, 4, requires_grad=True)
    weight = torch.ones(1, 1, 4, 4)
    weight[..., 2:] = 0
    penalty_reduced_focal(logit, torch.zeros(1, 1, 4, 4), weight).backward()
    assert (logit.grad[..., 2:] == 0).all()
    assert (logit.grad[..., :2] != 0).all()
