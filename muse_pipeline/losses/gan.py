"""Losses of generative adversarial networks: least squares, and logistic with a gradient penalty (R1).

Least squares: Mao et al., ICCV 2017, arXiv 1611.04076, equation 9 with targets 0 and 1. Logistic, non-saturating, as
StyleGAN2 uses it: Goodfellow et al., NIPS 2014, arXiv 1406.2661; R1: Mescheder et al., ICML 2018, arXiv 1801.04406,
equation 9.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus


class LeastSquares:
    """Squared distances of scores of any shape to their targets (1 for real pictures, 0 for generated ones)."""

    @staticmethod
    def of_discriminator(real: Tensor, fake: Tensor) -> Tensor:
        """``(E (D(y) - 1)^2 + E D(G(x))^2) / 2``."""
        return ((real - 1).square().mean() + fake.square().mean()) / 2

    @staticmethod
    def of_generator(fake: Tensor) -> Tensor:
        """``E (D(G(x)) - 1)^2 / 2``."""
        return (fake - 1).square().mean() / 2


class Logistic:
    """Cross-entropies of the sigmoid of scores of any shape (positive for real pictures)."""

    @staticmethod
    def of_discriminator(real: Tensor, fake: Tensor) -> Tensor:
        """``E softplus(-D(y)) + E softplus(D(G(x)))``."""
        return softplus(-real).mean() + softplus(fake).mean()

    @staticmethod
    def of_generator(fake: Tensor) -> Tensor:
        """``E softplus(-D(G(x)))``."""
        return softplus(-fake).mean()


def r1_penalty(real: Tensor, score: Tensor, gamma: float) -> Tensor:
    """``gamma / 2 E |grad_y D(y)|^2``, the squared norm summed over each picture.

    Args:
        real: (B, C, H, W) pictures that require gradients, -1 to 1.
        score: (B, ...) of them; the scores of one picture are summed.
        gamma: weight.
    """
    (gradient,) = torch.autograd.grad(score.sum(), real, create_graph=True)
    return gamma / 2 * gradient.square().flatten(1).sum(1).mean()
