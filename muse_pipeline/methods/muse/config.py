"""The settings of MUSE pretraining."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from muse_pipeline.core.config import Weights, require_between, require_one_of
from muse_pipeline.core.errors import ConfigError
from muse_pipeline.data.augment import Augmentation
from muse_pipeline.data.nucleus_images import NucleusSource
from muse_pipeline.data.stream import MAX_SEED
from muse_pipeline.data.views import ViewSettings
from muse_pipeline.labels.sources import LabelSource
from muse_pipeline.methods.detector.config import require_window
from muse_pipeline.methods.muse.method import SelfDistillationSettings
from muse_pipeline.models import BACKBONES
from muse_pipeline.training.devices import PRECISIONS
from muse_pipeline.training.schedule import Schedule


@dataclass(frozen=True)
class MuseConfig:
    """A pretraining run.

    Attributes:
        name: of the run.
        backbone: registered name.
        sources: tissue with nucleus positions.
        schedule: how long and how fast.
        held: labelled images that the backbone will be judged on; no patient of theirs may be among the sources.
        checkpoint: what to start from: a file of ours, an official one or a built-in model's name; a run at small views
            goes on at large ones so. Random weights without one.
        trust_pickle: whether a checkpoint that needs more than plain tensors may run code while it is read.
        views: how they are cut.
        distillation: how student and teacher agree.
        augmentation: of each view's colour and sharpness; its geometry is not used, the views have their own.
        grey: share of views without hue.
        balance: 0 draws every slide alike, 1 every mm2 that holds nuclei.
        min_nuclei: slides with fewer are left out.
        batch: sets of views per batch (and device).
        seed: of weights and views.
        precision: "32-true" or "bf16-mixed".
        method: "muse".
    """

    name: str
    backbone: str
    sources: tuple[NucleusSource, ...]
    schedule: Schedule
    held: tuple[LabelSource, ...] = ()
    checkpoint: Weights | None = None
    trust_pickle: bool = False
    views: ViewSettings = field(default_factory=ViewSettings)
    distillation: SelfDistillationSettings = field(default_factory=SelfDistillationSettings)
    augmentation: Augmentation = field(default_factory=lambda: Augmentation(stain_gain=0.3, stain_mix=0.08, shift=0.05))
    grey: float = 0.1
    balance: float = 0.5
    min_nuclei: int = 50
    batch: int = 16
    seed: int = 0
    precision: str = "32-true"
    method: str = "muse"

    def __post_init__(self) -> None:
        require_between(self, "", grey=(0, 1), balance=(0, 1), min_nuclei=(1, math.inf), seed=(0, MAX_SEED))
        require_between(self, "", batch=(1, math.inf))
        if not self.sources:
            raise ConfigError("sources: there is none; name tissue with nucleus positions")

    @property
    def middle_mpp(self) -> float:
        """Of what views are drawn from; the mpp that the backbone is for."""
        return sum(self.views.mpp) / 2


def require_sound(config: MuseConfig) -> None:
    """Refuse what this version does not have, and views that the network cannot take, before any data is read.

    Raises:
        ConfigError: a setting is wrong.
    """
    require_one_of(config, "", precision=PRECISIONS)
    with torch.device("meta"):  # no weights yet
        backbone = BACKBONES[config.backbone]()
    sides = [config.views.global_px] + [config.views.local_px] * (config.views.n_local > 0)
    for side in sides:
        require_window(side, backbone, config.backbone)
