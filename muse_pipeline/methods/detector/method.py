"""Training of a nucleus detector from points and, where they are known, outlines."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from muse_pipeline.data.augment import LabelledBatch
from muse_pipeline.methods.detector.criterion import CRITERIA
from muse_pipeline.methods.detector.distillation import DistillationTerm
from muse_pipeline.models.detector import NucleusDetector
from muse_pipeline.training.method import AveragedNetwork, Method
from muse_pipeline.training.schedule import Schedule, build_adamw


class DetectorTraining(Method):
    """The head's criterion on labelled windows; the result of the run is the averaged network.

    Args:
        network: the detector.
        criterion: registered name; that of the network's head.
        mpp: um per pixel of the windows.
        class_weights: (C,) weights of the classes in the cross-entropy.
        distillation: trained networks as teachers beside the labels; None without.
        backbone_rate: factor of the learning rate of the backbone.
        class_shift: (C,) additions to the class logits in the criterion (``validation.class_shift``); none by default.
    """

    def __init__(
        self,
        network: NucleusDetector,
        criterion: str,
        mpp: float,
        class_weights: Tensor,
        distillation: DistillationTerm | None = None,
        backbone_rate: float = 1.0,
        class_shift: Tensor | None = None,
    ):
        super().__init__()
        self.network = network
        self.average = AveragedNetwork(network)
        self.criterion = CRITERIA[criterion](mpp, class_weights)
        self.distillation, self.backbone_rate = distillation, backbone_rate
        self.register_buffer("class_shift", class_shift, persistent=False)

    def optimiser(self, turn: str, schedule: Schedule) -> torch.optim.Optimizer:
        """AdamW with a learning rate of its own for the backbone."""
        return build_adamw(self.turn_parameters(turn), schedule, self.backbone_rate)

    def losses(self, batch: LabelledBatch, turn: str, progress: float) -> dict[str, Tensor]:
        """The criterion's terms in annotated regions and, if configured, distillation."""
        maps = self.network(batch.pixels, batch.colour)
        shifted = maps
        if self.class_shift is not None:
            shifted = maps._replace(label=maps.label + self.class_shift[:, None, None])
        terms = self.criterion(shifted, batch)
        if self.distillation is None:
            return terms
        distilled = self.distillation(maps, batch)
        return {**terms, "distillation": distilled, "loss": terms["loss"].lerp(distilled, self.distillation.share)}

    def after_step(self, progress: float) -> None:
        """Update the average."""
        self.average.update(self.network)

    def trained(self) -> nn.Module:
        """The averaged network."""
        return self.average.network
