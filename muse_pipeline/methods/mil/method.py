"""Training of teacher and student, and their losses: IKD-MIL's, and cross-entropy of generalised
means.

Generalised means are computed as in SA-MIL (2023) and DWS-MIL (Jia et al., TMI 2017). IKD-MIL is
iterative fusion-knowledge distillation (https://github.com/wollf2008/IKD-MIL, 2023). Its released
code mistakes probabilities for logits and truncates labels to 0; here, the cross-entropy is
computed from probabilities and from labels thresholded at 0.5.

Maps are probabilities (B, K, H, W) of K classes that are not mutually exclusive. Targets, 0 to 1,
have the same shape, and so has ``is_known``, 1 where the target is known and 0 elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from muse_pipeline.methods.mil.config import StudentSettings
from muse_pipeline.methods.mil.windows import RegionBatch
from muse_pipeline.models.region import RegionMaps, RegionNetwork
from muse_pipeline.training.method import AveragedTraining, Losses


# Weights are averaged because the maps change strongly from step to step.
class TeacherTraining(AveragedTraining):
    """Training of a region network on labels only; ``kind`` is the setting ``teacher``."""

    def __init__(self, network: RegionNetwork, kind: str):
        super().__init__(network)
        self.kind = kind

    def losses(self, batch: RegionBatch, turn: str, progress: float) -> Losses:
        """Compute the loss of all side maps and the fused map.

        "dice": Dice losses with the image's label at every pixel. "gm": cross-entropy of
        generalised means for images with a label, and of pixels for images with labelled pixels.
        """
        maps = _in_float(self.network(batch.pixels, batch.colour))
        every = (*maps.sides, maps.fused)
        if self.kind == "dice":
            return {"loss": fusion_dice(every, batch.target, batch.known)}
        of_images = (batch.label >= 0).float()
        is_known = batch.known * (1 - of_images)[..., None, None]
        of_pixels = sum(
            weighted_cross_entropy(pred, batch.target, is_known, weighted=False) for pred in every
        )
        return {"loss": image_cross_entropy(every, batch.label.clamp(min=0), of_images) + of_pixels}


class StudentTraining(AveragedTraining):
    """Training on a fixed teacher's fused maps for the classes in an image's label, and on labels
    for all others.
    """

    def __init__(self, network: RegionNetwork, teacher: RegionNetwork, settings: StudentSettings):
        super().__init__(network)
        self.teacher = teacher.requires_grad_(False)
        self.settings = settings

    def train(self, mode: bool = True) -> StudentTraining:
        """Set the mode, but keep the teacher in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def losses(self, batch: RegionBatch, turn: str, progress: float) -> Losses:
        """Compute the distillation loss, the cross-entropy and their weighted sum."""
        maps = _in_float(self.network(batch.pixels, batch.colour))
        with torch.no_grad():
            fused = self.teacher(batch.pixels, batch.colour).fused.float()
        is_taught = (batch.label == 1)[..., None, None]
        target = torch.where(is_taught, fused, batch.target)
        terms = {
            "distillation": fusion_dice((*maps.sides, maps.fused), target, batch.known),
            "cross-entropy": weighted_cross_entropy(
                maps.fused, (target >= THRESHOLD).float(), batch.known, self.settings.weighted
            ),
        }
        weights = self.settings.distillation, self.settings.cross_entropy
        return {
            "loss": sum(
                weight * term for weight, term in zip(weights, terms.values(), strict=True)
            ),
            **terms,
        }


def _in_float(maps: RegionMaps) -> RegionMaps:
    # Dice losses sum whole maps, for which bfloat16 is not precise enough.
    return RegionMaps(tuple(side.float() for side in maps.sides), maps.fused.float())


THRESHOLD = 0.5  # probability from which a pixel belongs to a class
EXPONENT = 4
LEAST_PROBABILITY = 1e-4
SMOOTH = 1.0
TINY = 1e-7


def generalised_mean(maps: Tensor) -> Tensor:
    """Probability that an image contains a class, ``mean(p ** r) ** (1 / r)`` over pixels: (B, K,
    H, W) -> (B, K).
    """
    # Clamped because the root has an infinite slope at 0.
    return maps.clamp(min=LEAST_PROBABILITY).pow(EXPONENT).mean((2, 3)).pow(1 / EXPONENT)


def image_cross_entropy(maps: Sequence[Tensor], label: Tensor, judged: Tensor) -> Tensor:
    """Cross-entropy of the generalised mean of every map, summed over maps and averaged over the
    given labels.

    ``label`` (B, K) is 1 if the image contains the class, and ``judged`` (B, K) 1 if the label is
    given; otherwise 0.
    """
    total = 0.0
    for prediction in maps:
        probability = generalised_mean(prediction)
        of_label = label * probability + (1 - label) * (1 - probability)
        total = total - judged * of_label.clamp(min=LEAST_PROBABILITY).log()
    return total.sum() / judged.sum().clamp(min=1)


def dice_loss(prediction: Tensor, target: Tensor, is_known: Tensor) -> Tensor:
    """(B, K) one minus the Dice coefficient of each image and class, from the complements if the
    target is empty.
    """
    # The plain loss saturates for an empty target: its gradient falls with the square of the
    # predicted area.
    is_empty = ((target * is_known).amax((2, 3), keepdim=True) == 0).to(target)
    prediction, target = (
        (is_empty + (1 - 2 * is_empty) * values) * is_known for values in (prediction, target)
    )
    overlap = (prediction * target).sum((2, 3))
    total = prediction.sum((2, 3)) + target.sum((2, 3))
    return 1 - (2 * overlap + SMOOTH) / (total + SMOOTH + TINY)


def fusion_dice(maps: Sequence[Tensor], target: Tensor, is_known: Tensor) -> Tensor:
    """Dice loss, summed over all side maps and the fused map, and averaged over images and classes.

    A teacher's target is the image label at every pixel; a student's target is its teacher's fused
    map.
    """
    return sum(dice_loss(prediction, target, is_known) for prediction in maps).mean()


def confidence_weights(loss: Tensor, target: Tensor, is_known: Tensor) -> Tensor:
    """Weights that favour pixels with a low loss (online easy example mining): N softmax(-loss)
    over N known pixels.

    Their mean over the known pixels is 1. If all known pixels of a map have the same target, their
    weights are 1.
    """
    n_known = is_known.sum((2, 3), keepdim=True)
    n_positive = (target * is_known).sum((2, 3), keepdim=True)
    # If no pixel is known, the softmax is NaN; ``where`` drops it, and ``detach`` keeps it out of
    # the gradient.
    trust = torch.softmax((-loss).masked_fill(is_known == 0, -torch.inf).flatten(2), 2).view_as(
        loss
    )
    has_both = (n_positive > 0) & (n_positive < n_known)
    return torch.where(has_both, n_known * trust, is_known).detach()


def weighted_cross_entropy(
    prediction: Tensor, target: Tensor, is_known: Tensor, weighted: bool = True
) -> Tensor:
    """Cross-entropy weighted by ``confidence_weights``, averaged over known pixels, then over
    images and classes.

    Without ``weighted``, all known pixels have the same weight.
    """
    of_target = torch.where(target > 0, prediction, 1 - prediction)
    loss = -of_target.clamp(min=LEAST_PROBABILITY).log()
    weights = confidence_weights(loss, target, is_known) if weighted else is_known
    return ((weights * loss).sum((2, 3)) / is_known.sum((2, 3)).clamp(min=1)).mean()
