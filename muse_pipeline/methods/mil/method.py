"""Training of teacher and student, and their losses."""

from __future__ import annotations

import torch
from torch import Tensor

from muse_pipeline.data.windows import RegionBatch
from muse_pipeline.losses.mil import fusion_dice, image_cross_entropy, weighted_cross_entropy
from muse_pipeline.methods.mil.config import StudentSettings
from muse_pipeline.methods.mil.data import THRESHOLD
from muse_pipeline.models.region import RegionMaps, RegionNetwork
from muse_pipeline.training.method import AveragedNetwork, Method


def dice_teacher(maps: RegionMaps, batch: RegionBatch) -> Tensor:
    """Dice losses of all side maps and the fused map, with the image's label at every pixel."""
    return fusion_dice((*maps.sides, maps.fused), batch.target, batch.known)


def gm_teacher(maps: RegionMaps, batch: RegionBatch) -> Tensor:
    """Cross-entropy of generalised means for images with a label, and of pixels for images with labelled pixels."""
    every = (*maps.sides, maps.fused)
    of_images = (batch.label >= 0).float()
    known = batch.known * (1 - of_images)[..., None, None]
    of_pixels = sum(weighted_cross_entropy(each, batch.target, known, weighted=False) for each in every)
    return image_cross_entropy(every, batch.label.clamp(min=0), of_images) + of_pixels


TEACHER_LOSSES = {"dice": dice_teacher, "gm": gm_teacher}


class RegionTraining(Method):
    """Training of a region network, whose weights are averaged because the maps change strongly from step to step.

    Args:
        network: the network to train.
    """

    def __init__(self, network: RegionNetwork):
        super().__init__()
        self.network, self.average = network, AveragedNetwork(network)

    def after_step(self, progress: float) -> None:
        """Update the averaged network."""
        self.average.update(self.network)

    def trained(self) -> RegionNetwork:
        """The averaged network."""
        return self.average.network


class TeacherTraining(RegionTraining):
    """Training of a region network on labels only.

    Args:
        network: the network to train.
        kind: name of the loss in ``TEACHER_LOSSES``.
    """

    def __init__(self, network: RegionNetwork, kind: str):
        super().__init__(network)
        self.teacher_loss = TEACHER_LOSSES[kind]

    def losses(self, batch: RegionBatch, turn: str, progress: float) -> dict[str, Tensor]:
        """Compute the teacher's loss."""
        return {"loss": self.teacher_loss(_in_float(self.network(batch.pixels, batch.colour)), batch)}


class StudentTraining(RegionTraining):
    """Training on a fixed teacher's fused maps for the classes in an image's label, and on labels for all others.

    Args:
        network: the network to train.
        teacher: network with the same architecture.
        settings: weights of the terms.
    """

    def __init__(self, network: RegionNetwork, teacher: RegionNetwork, settings: StudentSettings):
        super().__init__(network)
        self.teacher, self.settings = teacher.requires_grad_(False), settings

    def train(self, mode: bool = True) -> StudentTraining:
        """Set the mode, but keep the teacher in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def losses(self, batch: RegionBatch, turn: str, progress: float) -> dict[str, Tensor]:
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
        return {"loss": sum(weight * term for weight, term in zip(weights, terms.values(), strict=True)), **terms}


def _in_float(maps: RegionMaps) -> RegionMaps:
    # Dice losses sum whole maps, for which bfloat16 is not precise enough.
    return RegionMaps(tuple(side.float() for side in maps.sides), maps.fused.float())
