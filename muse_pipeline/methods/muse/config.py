"""The settings of MUSE pretraining."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from muse_pipeline.core.config import Count, Fraction, Weights
from muse_pipeline.core.errors import ConfigError
from muse_pipeline.data.augment import Augmentation, Seed
from muse_pipeline.data.nucleus_images import NucleusSource
from muse_pipeline.data.views import ViewSettings
from muse_pipeline.labels.label_sources import ParsedSource
from muse_pipeline.methods.muse.method import SelfDistillationSettings
from muse_pipeline.training.devices import Precision
from muse_pipeline.training.method import Schedule


@dataclass(frozen=True)
class MuseConfig:
    """Settings of a pretraining run.

    Attributes:
        name: name of the run.
        backbone: registered name of the backbone.
        sources: tissue with nucleus positions.
        schedule: length and learning rate.
        held: labelled images of other patients, for evaluation. If each source here has a
            ``class_map``, the backbone is scored on them every ``schedule.validate_every`` steps.
        checkpoint: initial weights: a checkpoint of this package, a released MUSE or
            EfficientNet-Lite file, or the name of a built-in model; random if not given.
        trust_pickle: whether a checkpoint that contains more than plain tensors may run code while
            it is read.
        views: size, scale and number of the views.
        distillation: losses between student and teacher.
        augmentation: colour and sharpness of each view; the geometric settings are ignored.
        grey: fraction of views converted to grey.
        balance: influence of an image's area with nuclei on how often it is drawn, from 0 (none) to
            1 (proportional).
        min_nuclei: minimum number of nuclei in an image; images with fewer are not used.
        batch: sets of views per batch and device.
        seed: seed of weights and views.
        precision: "32-true" or "bf16-mixed".
        method: name of the method, "muse".
    """

    name: str
    backbone: str
    sources: tuple[NucleusSource, ...]
    schedule: Schedule
    held: tuple[ParsedSource, ...] = ()
    checkpoint: Weights | None = None
    trust_pickle: bool = False
    views: ViewSettings = ViewSettings()
    distillation: SelfDistillationSettings = SelfDistillationSettings()
    augmentation: Augmentation = Augmentation(stain_gain=0.3, stain_mix=0.08, shift=0.05)
    grey: Fraction = 0.1
    balance: Fraction = 0.5
    min_nuclei: Count = 50
    batch: Count = 16
    seed: Seed = 0
    precision: Precision = "32-true"
    method: str = "muse"
    slide_files: ClassVar = ("store", "proposals")

    def __post_init__(self) -> None:
        if not self.sources:
            raise ConfigError("sources: the list is empty; name tissue with nucleus positions")

    def pair(self, source: NucleusSource, partner: Path | None) -> NucleusSource:
        """Return ``source``, a slide of a cohort, unchanged; ``partner``, the store of a paired
        slide, is ignored.
        """
        return source

    @property
    def store_mpp(self) -> float:
        """Um per pixel of the stores of a cohort's slides: that of the finest views."""
        return self.views.mpp[0]

    @property
    def middle_mpp(self) -> float:
        """The mpp that is saved with the backbone: the middle of the views' range of mpps."""
        return sum(self.views.mpp) / 2

    @property
    def sides_px(self) -> tuple[int, ...]:
        """Sides of all views that the network gets."""
        return (self.views.global_px, *[self.views.local_px] * (self.views.n_local > 0))
