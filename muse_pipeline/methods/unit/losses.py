"""Losses for generative adversarial networks (least squares; logistic with a gradient penalty), and
augmentation.

Least squares: Mao et al., ICCV 2017, arXiv 1611.04076, equation 9 with targets 0 and 1. Logistic,
non-saturating, as in StyleGAN2: Goodfellow et al., NIPS 2014, arXiv 1406.2661; R1: Mescheder et
al., ICML 2018, arXiv 1801.04406, equation 9.

Adaptive discriminator augmentation (ADA; Karras et al., NeurIPS 2020, arXiv 2006.06676) is
implemented from the paper. Before the discriminator, real and generated pictures are augmented by
differentiable operations; each kind of change is applied with probability p. p is adapted to ``r =
E sign(D(y))``: it rises while the discriminator overfits to real pictures. Of the paper's groups
"bgc", these changes are implemented: mirroring, quarter turns and shifts (blit); scaling and
rotation (geometric); brightness, contrast and saturation (colour).

Cycle consistency (Zhu et al., ICCV 2017, arXiv 1703.10593) does not fix the polarity: rendering
nuclei pale and reading pale areas as nuclei satisfies both cycles as well. A colour prior that is
not in UNITPathSSL's paper, the distance between a rendered picture and its mask painted in two flat
colours, excludes this solution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample, softplus

SHIFT = 0.125  # largest shift, as a fraction of the side; rounded to whole pixels
LOG2_SCALE, BRIGHTNESS, LOG2_CONTRAST, SATURATION = (
    0.2,
    0.2,
    0.5,
    1.0,
)  # standard deviations from the paper


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


class AdaptiveAugmentation(nn.Module):
    """Augments pictures with an adaptive probability p.

    p rises while ``r = E sign(D(y))`` exceeds ``target``, from 0 to 1 over a number of real
    ``pictures``; ``midpoint`` is the score halfway between real and generated pictures (logistic
    losses: 0; least squares: 0.5).
    """

    def __init__(self, target: float, pictures: int, midpoint: float):
        super().__init__()
        self.target, self.pictures, self.midpoint = target, pictures, midpoint
        self.register_buffer("p", torch.zeros(()))

    @torch.no_grad()
    def adapt(self, score: Tensor) -> None:
        """Update p from the scores (B, ...) of B real pictures."""
        mean_sign = (score - self.midpoint).sign().mean()
        self.p.add_((mean_sign - self.target).sign() * len(score) / self.pictures).clamp_(0, 1)

    def forward(self, pictures: Tensor, generator: torch.Generator) -> Tensor:
        """(B, 3, H, W), -1 to 1 -> the same shape; random numbers are drawn from ``generator``, a
        CPU generator.
        """
        if self.p == 0:
            return pictures
        return self._recolour(self._move(pictures, generator), generator)

    def _chosen(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.rand(n, generator=generator) < self.p.cpu()

    def _move(self, pictures: Tensor, generator: torch.Generator) -> Tensor:
        """Apply blit and geometric changes in one affine map per picture; pictures are mirrored
        beyond their border.
        """
        n, size = len(pictures), pictures.shape[-1]
        quarter = torch.randint(4, (n,), generator=generator) * self._chosen(n, generator)
        turn = (2 * torch.rand(n, generator=generator) - 1) * math.pi * self._chosen(n, generator)
        mirror = 1 - 2 * (torch.rand(n, generator=generator) < 0.5).float() * self._chosen(
            n, generator
        )
        shift = (
            (2 * torch.rand(n, 2, generator=generator) - 1)
            * SHIFT
            * self._chosen(n, generator)[:, None]
        )
        scale = 2 ** (LOG2_SCALE * torch.randn(n, generator=generator) * self._chosen(n, generator))
        angle = quarter * (math.pi / 2) + turn
        # The grid maps output positions to input positions, so the entries are divided by the
        # scale.
        cos, sin = angle.cos() / scale, angle.sin() / scale
        matrix = torch.stack(
            [torch.stack([cos * mirror, -sin], 1), torch.stack([sin * mirror, cos], 1)], 1
        )
        whole = (shift * size).round() * 2 / size
        theta = torch.cat((matrix, whole[..., None]), 2).to(pictures)
        grid = affine_grid(theta, list(pictures.shape), align_corners=False)
        return grid_sample(pictures, grid, padding_mode="reflection", align_corners=False)

    def _recolour(self, pictures: Tensor, generator: torch.Generator) -> Tensor:
        """Change saturation, contrast and brightness."""
        n = len(pictures)

        def draw(sigma: float) -> Tensor:
            value = sigma * torch.randn(n, generator=generator) * self._chosen(n, generator)
            return value.view(n, 1, 1, 1).to(pictures)

        grey = pictures.mean(1, keepdim=True)
        pictures = grey + (pictures - grey) * 2 ** draw(SATURATION)
        return pictures * 2 ** draw(LOG2_CONTRAST) + draw(BRIGHTNESS)


BLACK = -0.9  # a pixel of a mask belongs to a nucleus if its green or blue channel exceeds this


def translation_objective(
    terms: Mapping[str, Tensor], weights: Mapping[str, float]
) -> dict[str, Tensor]:
    """``L = L_GAN(G) + l1 L_GAN(S) + l2 L_cyc(G, S) + l3 L_seg(S o G) + l4 L_painted(G)``; we added
    the last term.

    ``L_seg`` is the instance loss of the reader S on rendered pictures; its targets are the
    instances of the masks that the pictures were rendered from. These pictures are not detached, so
    the loss trains both networks: G must render nuclei that S can separate. Terms with a weight of
    0 may be missing.
    """
    return {"loss": sum(weights[name] * term for name, term in terms.items()), **terms}


def cycle_loss(mask: Tensor, mask_again: Tensor, picture: Tensor, picture_again: Tensor) -> Tensor:
    """``(|S(G(x, z)) - x|_1 + |G(S(y), z') - y|_1) / 2``, where each norm is the mean over all
    values.
    """
    return ((mask_again - mask).abs().mean() + (picture_again - picture).abs().mean()) / 2


def paint_flat(mask: Tensor, nucleus: Tensor, background: Tensor) -> Tensor:
    """Paint masks (B, 3, H, W), -1 to 1, in two flat colours (3,); contours, the first channel, are
    background.

    As a control, the results are also used in place of rendered pictures.
    """
    inside = mask[:, 1:].amax(1, keepdim=True) > BLACK
    return torch.where(inside, nucleus.view(1, 3, 1, 1), background.view(1, 3, 1, 1))


def painted_loss(picture: Tensor, mask: Tensor, nucleus: Tensor, background: Tensor) -> Tensor:
    """``|G(x, z) - paint_flat(x)|_1``, the mean over all values; pictures and colours must have the
    same scale.
    """
    return (picture - paint_flat(mask, nucleus, background)).abs().mean()
