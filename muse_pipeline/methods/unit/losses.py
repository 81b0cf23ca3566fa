"""Losses for generative adversarial networks: least squares; logistic with a gradient penalty.

Least squares: Mao et al., ICCV 2017, arXiv 1611.04076, equation 9 with targets 0 and 1. Logistic,
non-saturating, as in StyleGAN2: Goodfellow et al., NIPS 2014, arXiv 1406.2661; R1: Mescheder et
al., ICML 2018, arXiv 1801.04406, equation 9.

Cycle consistency (Zhu et al., ICCV 2017, arXiv 1703.10593) does not fix the polarity: rendering
nuclei pale and reading pale areas as nuclei satisfies both cycles as well. A colour prior that is
not in UNITPathSSL's paper, the distance between a rendered picture and its mask painted in two flat
colours, excludes this solution.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus


class LeastSquares:
    """Squared distances between scores of any shape and their targets (1 for real pictures, 0 for
    generated ones).
    """

    @staticmethod
    def of_discriminator(real: Tensor, fake: Tensor) -> Tensor:
        """``(E (D(y) - 1)^2 + E D(G(x))^2) / 2``."""
        return ((real - 1).square().mean() + fake.square().mean()) / 2

    @staticmethod
    def of_generator(fake: Tensor) -> Tensor:
        """``E (D(G(x)) - 1)^2 / 2``."""
        return (fake - 1).square().mean() / 2


class Logistic:
    """Cross-entropies of the sigmoid of scores of any shape (positive scores stand for real
    pictures).
    """

    @staticmethod
    def of_discriminator(real: Tensor, fake: Tensor) -> Tensor:
        """``E softplus(-D(y)) + E softplus(D(G(x)))``."""
        return softplus(-real).mean() + softplus(fake).mean()

    @staticmethod
    def of_generator(fake: Tensor) -> Tensor:
        """``E softplus(-D(G(x)))``."""
        return softplus(-fake).mean()


def r1_penalty(real: Tensor, score: Tensor, gamma: float) -> Tensor:
    """``gamma / 2 E |grad_y D(y)|^2``; the squared norm is summed over the values of each picture.

    ``real`` (B, C, H, W) requires gradients; the scores (B, ...) of one picture are summed.
    """
    # Pictures do not interact in the discriminator, so the gradient of the sum contains each
    # picture's own gradient.
    (gradient,) = torch.autograd.grad(score.sum(), real, create_graph=True)
    return gamma / 2 * gradient.square().flatten(1).sum(1).mean()


BLACK = -0.9  # a pixel of a mask belongs to a nucleus if its green or blue channel exceeds this


def cycle_loss(mask: Tensor, mask_again: Tensor, picture: Tensor, picture_again: Tensor) -> Tensor:
    """``(|S(G(x, z)) - x|_1 + |G(S(y), z') - y|_1) / 2``, where each norm is the mean over all
    values.
    """
    return ((mask_again - mask).abs().mean() + (picture_again - picture).abs().mean()) / 2


def painted_loss(picture: Tensor, mask: Tensor, nucleus: Tensor, background: Tensor) -> Tensor:
    """``|G(x, z) - painted(x)|_1``, the mean over all values.

    The masks (B, 3, H, W), -1 to 1, are painted in two flat colours (3,), which have the scale of
    the pictures; contours, the first channel, are background.
    """
    inside = mask[:, 1:].amax(1, keepdim=True) > BLACK
    painted = torch.where(inside, nucleus.view(1, 3, 1, 1), background.view(1, 3, 1, 1))
    return (picture - painted).abs().mean()
