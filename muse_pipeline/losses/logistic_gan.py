"""Non-saturating logistic GAN with a gradient penalty (R1), as StyleGAN2 uses both.

Goodfellow et al., NIPS 2014, arXiv 1406.2661; Mescheder et al., ICML 2018, arXiv 1801.04406, equation 9.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """``E softplus(-D(y)) + E softplus(D(G(x)))`` of scores of any shape."""
    return softplus(-real).mean() + softplus(fake).mean()


def generator_loss(fake: Tensor) -> Tensor:
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
