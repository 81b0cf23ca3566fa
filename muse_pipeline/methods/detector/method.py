"""Training of a nucleus detector from points and, where they are known, outlines."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from muse_pipeline.data.augment import LabelledBatch
from muse_pipeline.methods.detector.consistency import ConsistencySettings, ConsistencyTerm, Teacher
from muse_pipeline.methods.detector.criterion import CRITERIA
from muse_pipeline.methods.detector.distillation import DistillationTerm
from muse_pipeline.models.detector import NucleusDetector
from muse_pipeline.training.ema import AveragedNetwork
from muse_pipeline.training.method import Method
from muse_pipeline.training.schedule import Schedule, build_adamw


class DetectorTraining(Method):
    """The head's criterion on labelled windows; the result of the run is the averaged network.

    Args:
        network: the detector.
        criterion: registered name; that of the network's head.
        mpp: um per pixel of the windows.
        class_weights: (C,) weights of the classes in the cross-entropy.
        consistency: pseudo-labels of the averaged network outside of annotations; None without.
        distillation: trained networks as teachers beside the labels; None without.
        backbone_rate: factor of the learning rate of the backbone.
    """

    def __init__(
        self,
        network: NucleusDetector,
        criterion: str,
        mpp: float,
        class_weights: Tensor,
        consistency: ConsistencySettings | None = None,
        distillation: DistillationTerm | None = None,
        backbone_rate: float = 1.0,
    ):
        super().__init__()
        self.network = network
        self.average = AveragedNetwork(network)
        self.criterion = CRITERIA[criterion](mpp, class_weights)
        self.consistency = ConsistencyTerm(consistency, class_weights, mpp) if consistency else None
        self.distillation, self.backbone_rate = distillation, backbone_rate

    def optimiser(self, turn: str, schedule: Schedule) -> torch.optim.Optimizer:
        """AdamW with a learning rate of its own for the backbone."""
        return build_adamw(self.turn_parameters(turn), schedule, self.backbone_rate)

    def losses(self, batch: LabelledBatch, turn: str, progress: float) -> dict[str, Tensor]:
        """The criterion's terms in annotated regions; if configured, distillation, and consistency outside of them."""
        maps = self.network(batch.pixels, batch.colour)
        terms = self.criterion(maps, batch)
        if self.distillation is not None:
            distilled = self.distillation(maps, batch)
            terms = {**terms, "distillation": distilled, "loss": terms["loss"].lerp(distilled, self.distillation.share)}
        if self.consistency is None:
            return terms
        more = self.consistency(maps, self._teach(batch), batch)
        return {**terms, **more, "loss": terms["loss"] + self.consistency.weight(progress) * more["consistency"]}

    @torch.no_grad()
    def _teach(self, batch: LabelledBatch) -> Teacher:
        maps = self.average.network(batch.weak.pixels, batch.weak.colour)
        return Teacher(maps, self.criterion.probability(maps), self.average.network.head.scores(maps) > 0)

    def after_step(self, progress: float) -> None:
        """Update the average."""
        self.average.update(self.network)

    def trained(self) -> nn.Module:
        """The averaged network."""
        return self.average.network
