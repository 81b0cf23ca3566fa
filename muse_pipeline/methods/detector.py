"""Training of a nucleus detector from points and, where they are known, outlines."""

from __future__ import annotations

from torch import Tensor, nn

from muse_pipeline.data.augment import LabelledBatch
from muse_pipeline.methods import CRITERIA, METHODS
from muse_pipeline.methods.averaged import AveragedNetwork
from muse_pipeline.methods.base import Method
from muse_pipeline.models.detector import NucleusDetector


@METHODS.register("detector")
class DetectorTraining(Method):
    """The head's criterion on labelled windows; averaged weights leave the run.

    Args:
        network: the detector.
        criterion: registered name; that of the network's head.
        mpp: um per pixel of the windows.
        class_weights: (C,) weights of the classes in the cross-entropy.
    """

    def __init__(self, network: NucleusDetector, criterion: str, mpp: float, class_weights: Tensor):
        super().__init__()
        self.network = network
        self.average = AveragedNetwork(network)
        self.criterion = CRITERIA[criterion](mpp, class_weights)

    def losses(self, batch: LabelledBatch, turn: int, progress: float) -> dict[str, Tensor]:
        """The criterion's terms."""
        return self.criterion(self.network(batch.pixels, batch.colour), batch)

    def after_step(self, progress: float) -> None:
        """The average follows."""
        self.average.follow(self.network)

    def trained(self) -> nn.Module:
        """The averaged network."""
        return self.average.network
