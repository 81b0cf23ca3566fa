"""Least-squares GAN (Mao et al., ICCV 2017, arXiv 1611.04076, equation 9: targets 0 and 1)."""

from __future__ import annotations

from torch import Tensor


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """``(E (D(y) - 1)^2 + E D(G(x))^2) / 2`` of scores of any shape."""
    return ((real - 1).square().mean() + fake.square().mean()) / 2


def generator_loss(fake: Tensor) -> Tensor:
    """``E (D(G(x)) - 1)^2 / 2``."""
    return (fake - 1).square().mean() / 2
