"""Losses of UNITPathSSL: its objective (equation 7), cycle consistency, and a colour prior that is not in the paper.

Cycle consistency is that of Zhu et al. (ICCV 2017, arXiv 1703.10593), in both directions. It does not fix the polarity:
rendering nuclei pale and reading pale areas as nuclei satisfies both cycles as well. The prior, which is the distance
between a rendered picture and its mask painted in two flat colours, excludes this solution.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

BLACK = -0.9  # a pixel of a mask belongs to a nucleus if its green or blue channel exceeds this


def translation_objective(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> dict[str, Tensor]:
    """``L = L_GAN(G) + l1 L_GAN(S) + l2 L_cyc(G, S) + l3 L_seg(S o G) + l4 L_painted(G)``; we added the last term.

    ``L_seg`` is the instance loss of the reader S on rendered pictures; its targets are the instances of the masks
    that the pictures were rendered from. These pictures are not detached, so the loss trains both networks: G must
    render nuclei that S can separate.

    Args:
        terms: loss terms, keyed as in ``weights``; terms with a weight of 0 may be missing.
        weights: weights of "picture_gan", "mask_gan", "cycle", "instances" and "painted".

    Returns:
        The sum, as ``"loss"``, and the terms.
    """
    return {"loss": sum(weights[name] * term for name, term in terms.items()), **terms}


def cycle_loss(mask: Tensor, mask_again: Tensor, picture: Tensor, picture_again: Tensor) -> Tensor:
    """``(|S(G(x, z)) - x|_1 + |G(S(y), z') - y|_1) / 2``, where each norm is the mean over all values.

    Args:
        mask: (B, 3, H, W) x, -1 to 1.
        mask_again: (B, 3, H, W) S(G(x, z)).
        picture: (B', 3, H, W) y, -1 to 1.
        picture_again: (B', 3, H, W) G(S(y), z').
    """
    return ((mask_again - mask).abs().mean() + (picture_again - picture).abs().mean()) / 2


def paint(mask: Tensor, nucleus: Tensor, background: Tensor) -> Tensor:
    """Paint masks in two flat colours; as a control, the results are also used in place of rendered pictures.

    Args:
        mask: (B, 3, H, W), -1 to 1; the first channel, the contours, is painted as background.
        nucleus: (3,) colour of nuclei, such as the mean of the darkest fifth of all pixels.
        background: (3,) colour outside nuclei.

    Returns:
        (B, 3, H, W), on the scale of the colours.
    """
    inside = mask[:, 1:].amax(1, keepdim=True) > BLACK
    return torch.where(inside, nucleus.view(1, 3, 1, 1), background.view(1, 3, 1, 1))


def painted_loss(picture: Tensor, mask: Tensor, nucleus: Tensor, background: Tensor) -> Tensor:
    """``|G(x, z) - paint(x)|_1``, the mean over all values; pictures and colours must have the same scale."""
    return (picture - paint(mask, nucleus, background)).abs().mean()
