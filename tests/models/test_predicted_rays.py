"""Rays computed from the output of a head."""

import math

import torch
from torch.nn import functional

from muse_pipeline.models.detector import (
    LEAST_INVERSE_SQUARE,
    MEAN_RADIUS_UM,
    MEAN_RAY,
    STEEPNESS,
    softplus,
    to_rays,
)


def test_a_head_begins_with_the_mean_radius():
    assert math.isclose(to_rays(torch.tensor(MEAN_RAY)).item(), MEAN_RADIUS_UM, rel_tol=1e-6)


def test_rays_are_short_where_much_is_reported_and_never_endless():
    rays = to_rays(torch.linspace(-50, 50, 101))
    assert (rays.diff() <= 0).all()
    assert rays[0] == MEAN_RADIUS_UM / math.sqrt(LEAST_INVERSE_SQUARE)
    assert rays.isfinite().all() and rays[-1] > 0


def test_one_wave_over_the_angles_is_an_ellipse():
    long_um, short_um = 9.0, 2.0
    angles = torch.arange(64, dtype=torch.float64) * 2 * math.pi / 64
    squares = [(MEAN_RADIUS_UM / axis) ** 2 for axis in (long_um, short_um)]
    wave = sum(squares) / 2 - (squares[1] - squares[0]) / 2 * torch.cos(2 * angles)
    output = torch.log(torch.expm1(wave)) / STEEPNESS
    assert torch.allclose(functional.softplus(STEEPNESS * output), wave)
    rays = to_rays(output)
    x, y = rays * torch.cos(angles), rays * torch.sin(angles)
    assert torch.allclose(
        (x / long_um) ** 2 + (y / short_um) ** 2, torch.ones(64, dtype=torch.float64)
    )


def test_our_softplus_is_torchs_and_so_is_its_gradient():
    ours = torch.cat([torch.linspace(-15, 15, 61), torch.tensor([-1e4, 1e4])]).requires_grad_()
    expected = ours.detach().clone().requires_grad_()
    softplus(ours).sum().backward()
    functional.softplus(expected).sum().backward()
    assert torch.allclose(softplus(ours), functional.softplus(expected), atol=2e-7)
    assert torch.allclose(ours.grad, expected.grad, atol=1e-6)
