"""Losses for multiple-instance learning: cross-entropy of generalised means, and the losses of IKD-MIL.

Generalised means are computed as in SA-MIL (2023) and DWS-MIL (Jia et al., TMI 2017). IKD-MIL is iterative
fusion-knowledge distillation (https://github.com/wollf2008/IKD-MIL, 2023).

Maps are probabilities (B, K, H, W) of K classes that are not mutually exclusive. ``known``, of the same shape, is 1
where the target is known and 0 elsewhere. The cross-entropy is computed from probabilities and from labels thresholded
at 0.5; the released code of IKD-MIL mistakes probabilities for logits and truncates labels to 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

EXPONENT = 4
LEAST_PROBABILITY = 1e-4
SMOOTH = 1.0
TINY = 1e-7


def generalised_mean(maps: Tensor, exponent: float = EXPONENT) -> Tensor:
    """Probability that an image contains a class, ``mean(p ** r) ** (1 / r)`` over pixels: (B, K, H, W) -> (B, K)."""
    # Clamped because the root has an infinite slope at 0.
    return maps.clamp(min=LEAST_PROBABILITY).pow(exponent).mean((2, 3)).pow(1 / exponent)


def image_cross_entropy(maps: Sequence[Tensor], label: Tensor, judged: Tensor) -> Tensor:
    """Cross-entropy of the generalised mean of every map, summed over maps and averaged over the given labels.

    Args:
        maps: probabilities, each (B, K, H, W).
        label: (B, K), 1 if the image contains the class, otherwise 0.
        judged: (B, K), 1 if the label is given, otherwise 0.
    """
    total = 0.0
    for each in maps:
        probability = generalised_mean(each)
        of_label = label * probability + (1 - label) * (1 - probability)
        total = total - judged * of_label.clamp(min=LEAST_PROBABILITY).log()
    return total.sum() / judged.sum().clamp(min=1)


def dice_loss(prediction: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """One minus the Dice coefficient of each image and class, computed from the complements if the target is empty.

    Args:
        prediction: (B, K, H, W).
        target: (B, K, H, W), 0 to 1.
        known: (B, K, H, W).

    Returns:
        (B, K) losses.
    """
    # The plain loss saturates for an empty target: its gradient falls with the square of the predicted area.
    is_empty = ((target * known).amax((2, 3), keepdim=True) == 0).to(target)
    prediction, target = ((is_empty + (1 - 2 * is_empty) * each) * known for each in (prediction, target))
    overlap, total = (prediction * target).sum((2, 3)), prediction.sum((2, 3)) + target.sum((2, 3))
    return 1 - (2 * overlap + SMOOTH) / (total + SMOOTH + TINY)


def fusion_dice(maps: Sequence[Tensor], target: Tensor, known: Tensor) -> Tensor:
    """Dice loss, summed over all side maps and the fused map, and averaged over images and classes.

    A teacher's target is the image label at every pixel; a student's target is its teacher's fused map.

    Args:
        maps: side maps and fused map, each (B, K, H, W).
        target: (B, K, H, W), 0 to 1, the same for all maps.
        known: (B, K, H, W).
    """
    return sum(dice_loss(each, target, known) for each in maps).mean()


def confidence_weights(loss: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Weights that favour pixels with a low loss (online easy example mining): N softmax(-loss) over N known pixels.

    Their mean over the known pixels is 1. If all known pixels of a map have the same target, their weights are 1.

    Args:
        loss: (B, K, H, W) cross-entropy.
        target: (B, K, H, W), 0 or 1.
        known: (B, K, H, W).
    """
    n_known = known.sum((2, 3), keepdim=True)
    n_positive = (target * known).sum((2, 3), keepdim=True)
    # If no pixel is known, the softmax is NaN; ``where`` drops it, and ``detach`` keeps it out of the gradient.
    trust = torch.softmax((-loss).masked_fill(known == 0, -torch.inf).flatten(2), 2).view_as(loss)
    has_both = (n_positive > 0) & (n_positive < n_known)
    return torch.where(has_both, n_known * trust, known).detach()


def weighted_cross_entropy(prediction: Tensor, target: Tensor, known: Tensor, weighted: bool = True) -> Tensor:
    """Cross-entropy weighted by ``confidence_weights``, averaged over known pixels, then over images and classes.

    Args:
        prediction: (B, K, H, W).
        target: (B, K, H, W), 0 or 1.
        known: (B, K, H, W).
        weighted: True to use ``confidence_weights``; otherwise all known pixels have the same weight.
    """
    of_target = torch.where(target > 0, prediction, 1 - prediction)
    loss = -of_target.clamp(min=LEAST_PROBABILITY).log()
    weights = confidence_weights(loss, target, known) if weighted else known
    return ((weights * loss).sum((2, 3)) / known.sum((2, 3)).clamp(min=1)).mean()
