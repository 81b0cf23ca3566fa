"""Losses of multiple-instance learning: cross-entropy of generalised means, and the losses of IKD-MIL.

Generalised means as in SA-MIL (2023) and DWS-MIL (Jia et al., TMI 2017); IKD-MIL is iterative fusion-knowledge
distillation (https://github.com/wollf2008/IKD-MIL, 2023).

Maps are probabilities (B, K, H, W) of K classes, each independent of the others; ``known`` of the same shape is 1 where
the target is known and 0 elsewhere. The cross-entropy is computed from probabilities and from labels thresholded at
0.5; the released code mistakes probabilities for logits and truncates its labels to 0.
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
    """Probability of an image, ``mean(p ** r) ** (1 / r)`` over its pixels: (B, K, H, W) -> (B, K)."""
    # The root has an infinite slope at 0.
    return maps.clamp(min=LEAST_PROBABILITY).pow(exponent).mean((2, 3)).pow(1 / exponent)


def image_cross_entropy(maps: Sequence[Tensor], label: Tensor, judged: Tensor) -> Tensor:
    """Cross-entropy of the generalised mean of every map, summed over maps and averaged over images and classes.

    Args:
        maps: (B, K, H, W) each, probabilities.
        label: (B, K), 1 where the image contains the class.
        judged: (B, K), 0 where no label of the image is given.
    """
    total = 0.0
    for each in maps:
        probability = generalised_mean(each)
        of_label = label * probability + (1 - label) * (1 - probability)
        total = total - judged * of_label.clamp(min=LEAST_PROBABILITY).log()
    return total.sum() / judged.sum().clamp(min=1)


def dice_loss(prediction: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """One minus the Dice coefficient of every image and class; empty targets are compared by their complements.

    Args:
        prediction: (B, K, H, W).
        target: (B, K, H, W), 0 to 1.
        known: (B, K, H, W).

    Returns:
        (B, K).
    """
    # The plain loss saturates for an empty target: its gradient falls with the square of the predicted area.
    is_empty = ((target * known).amax((2, 3), keepdim=True) == 0).to(target)
    prediction, target = ((is_empty + (1 - 2 * is_empty) * each) * known for each in (prediction, target))
    overlap, total = (prediction * target).sum((2, 3)), prediction.sum((2, 3)) + target.sum((2, 3))
    return 1 - (2 * overlap + SMOOTH) / (total + SMOOTH + TINY)


def fusion_dice(maps: Sequence[Tensor], target: Tensor, known: Tensor) -> Tensor:
    """Dice losses of all side maps and the fused map against one target, averaged over images and classes.

    A teacher's target is the image label at every pixel, a student's target the fused map of its teacher.

    Args:
        maps: (B, K, H, W) each.
        target: (B, K, H, W), 0 to 1.
        known: (B, K, H, W).
    """
    return sum(dice_loss(each, target, known) for each in maps).mean()


def confidence_weights(loss: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Weights that favour pixels of a low loss (online easy example mining): N softmax(-loss) over the N known pixels.

    Their mean over the known pixels is 1. All are 1 where the target has a single class.

    Args:
        loss: (B, K, H, W) cross-entropy.
        target: (B, K, H, W), 0 or 1.
        known: (B, K, H, W).
    """
    n_known = known.sum((2, 3), keepdim=True)
    n_positive = (target * known).sum((2, 3), keepdim=True)
    # Without a known pixel the softmax is NaN; ``where`` drops it, and ``detach`` keeps it out of the gradient.
    trust = torch.softmax((-loss).masked_fill(known == 0, -torch.inf).flatten(2), 2).view_as(loss)
    has_both = (n_positive > 0) & (n_positive < n_known)
    return torch.where(has_both, n_known * trust, known).detach()


def weighted_cross_entropy(prediction: Tensor, target: Tensor, known: Tensor, weighted: bool = True) -> Tensor:
    """Mean cross-entropy over known pixels, images and classes, weighted by ``confidence_weights``.

    Args:
        prediction: (B, K, H, W).
        target: (B, K, H, W), 0 or 1.
        known: (B, K, H, W).
        weighted: False weights all pixels equally.
    """
    of_target = torch.where(target > 0, prediction, 1 - prediction)
    loss = -of_target.clamp(min=LEAST_PROBABILITY).log()
    weights = confidence_weights(loss, target, known) if weighted else known
    return ((weights * loss).sum((2, 3)) / known.sum((2, 3)).clamp(min=1)).mean()
