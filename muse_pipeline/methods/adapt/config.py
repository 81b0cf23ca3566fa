"""The settings of an adaptation."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from muse_pipeline.core.config import Between, Count, Fraction, NotNegative, Weights
from muse_pipeline.data.views import MAX_SIDE_PX
from muse_pipeline.methods.muse.config import MuseConfig


@dataclass(frozen=True)
class HoldSettings:
    """Distillation from the detector that the run starts from, at the detector's um per pixel.

    Attributes:
        weight: weight of the distillation loss; MUSE's loss has the weight 1.
        window_px: side of a window.
        batch: pairs of windows per batch (and device); both windows of a pair contain the same nucleus.
    """

    weight: NotNegative = 4.0
    window_px: Annotated[int, Between(1, MAX_SIDE_PX)] = 192
    batch: Count = 4


@dataclass(frozen=True)
class AdaptConfig(MuseConfig):
    """Settings of a run from a trained detector and tissue without labels to a detector.

    Settings that are not described here are those of ``MuseConfig``.

    Attributes:
        name: name of the model.
        backbone: registered name of the backbone; by default that of ``checkpoint``.
        checkpoint: detector to adapt: a checkpoint of this package, or the name of a built-in one. Its classes,
            colour reference, export settings and licence are kept.
        hold: distillation from that detector.
        network_rate: factor of the learning rate of the detector; the projectors, which begin with random weights,
            have the rate of the schedule.
        distillation: losses of MUSE's student and teacher, whose batch norms keep the statistics of the detector.
        augmentation: colour and sharpness of views and windows; the geometric settings are ignored.
        grey: fraction of views and windows converted to grey.
        seed: seed of projectors, views and windows.
        method: "adapt".
    """

    checkpoint: Weights = Path("compact")
    hold: HoldSettings = field(default_factory=HoldSettings)
    network_rate: Fraction = 0.1
    method: str = "adapt"

    @property
    def sides_px(self) -> tuple[int, ...]:
        """Sides of all squares that the network is given."""
        return (*super().sides_px, self.hold.window_px)
