"""MUSE on the backbone of a trained detector whose output is held by distillation from its own copy."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from muse_pipeline.data.augment import LabelledBatch
from muse_pipeline.data.views import ViewBatch
from muse_pipeline.methods.adapt.config import AdaptConfig
from muse_pipeline.methods.detector.distillation import DistillationTerm
from muse_pipeline.methods.muse.method import MusePretraining
from muse_pipeline.models.detector import NucleusDetector
from muse_pipeline.training.method import AveragedNetwork
from muse_pipeline.training.schedule import Schedule, build_adamw


class AdaptBatch(NamedTuple):
    """Views for MUSE, and windows for the detector.

    Attributes:
        views: sets of views.
        windows: windows without labels, with a view for the teacher.
    """

    views: ViewBatch
    windows: LabelledBatch


class Adaptation(MusePretraining):
    """MUSE's student is the backbone of a detector, and a frozen copy teaches the whole detector.

    Batch norms keep their statistics, so that the detector computes in training what it computes after the export.

    Args:
        network: the detector; the average of its weights is the result.
        teacher: the detector that the run starts from.
        config: settings of the run.
    """

    def __init__(self, network: NucleusDetector, teacher: NucleusDetector, config: AdaptConfig):
        super().__init__(network.backbone, config.distillation, config.views.n_local)
        self.network, self.average = network, AveragedNetwork(network)
        self.distillation = DistillationTerm(config.hold.weight, [teacher])
        self.network_rate = config.network_rate

    def optimiser(self, turn: str, schedule: Schedule) -> torch.optim.Optimizer:
        """AdamW with a learning rate of its own for the detector, backbone and head."""
        named = ((name.replace("network.", "backbone."), value) for name, value in self.turn_parameters(turn))
        return build_adamw(named, schedule, self.network_rate)

    def losses(self, batch: AdaptBatch, turn: str, progress: float) -> dict[str, Tensor]:
        """MUSE's loss, the distance from the teacher's maps, their weighted sum, and MUSE's gauges."""
        found = super().losses(batch.views, turn, progress)
        distance = self.distillation(self.network(batch.windows.pixels, batch.windows.colour), batch.windows)
        return {**found, "distillation": distance, "loss": found["loss"] + self.distillation.share * distance}

    def after_step(self, progress: float) -> None:
        """Update MUSE's teacher and the averaged detector."""
        super().after_step(progress)
        self.average.update(self.network)

    def train(self, mode: bool = True) -> Adaptation:
        """Set the mode; batch norms stay in evaluation mode."""
        super().train(mode)
        self.network.eval()
        self.teacher.eval()
        return self

    def trained(self) -> NucleusDetector:
        """The averaged detector."""
        return self.average.network
