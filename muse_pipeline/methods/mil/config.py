"""The settings of IKD-MIL, and the checkpoints of its region models."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch

from muse_pipeline.core.config import Between, Count, Fraction, NotNegative, OneOf, Weights
from muse_pipeline.core.errors import ConfigError
from muse_pipeline.data.augment import Augmentation, Seed
from muse_pipeline.methods.detector.config import ColourMethod, require_window
from muse_pipeline.methods.mil.tissue import TissueSource
from muse_pipeline.models.region import RegionNetwork
from muse_pipeline.training.devices import Precision
from muse_pipeline.training.method import Schedule
from muse_pipeline.training.recipe import require_distinct_classes
from muse_pipeline.training.region_model import RegionModel

TEACHERS = ("dice", "gm")


@dataclass(frozen=True)
class StudentSettings:
    """Settings of the second stage, in which a student with the teacher's architecture learns the
    teacher's maps.

    Attributes:
        rounds: length of the stage, in multiples of the schedule; 0 skips the stage.
        distillation: weight of the Dice losses between the student's maps and the teacher's fused
            map.
        cross_entropy: weight of the cross-entropy with the teacher's map, thresholded at 0.5.
        weighted: whether pixels with a low loss have more weight in the cross-entropy.
        schedule: length and learning rate; the same as the teacher's by default.
    """

    rounds: Annotated[int, Between(0, 20)] = 3
    distillation: NotNegative = 1.0
    cross_entropy: NotNegative = 2.0
    weighted: bool = True
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        if self.rounds and not self.distillation and not self.cross_entropy:
            raise ConfigError(
                "student: `distillation` and `cross_entropy` are both 0; give one a positive weight"
            )


@dataclass(frozen=True, kw_only=True)
class SlideLabelSettings:
    """Slides with one label each; attention MIL finds the tiles that show this label, on which the
    teacher is trained.

    Patients are divided into folds. The slides of each fold are scored with a model trained on all
    other folds, and the tiles of the first fold's slides are validation images in the later stages.

    Attributes:
        slides: sheet of slides, with the labels in its column ``label``.
        stores: folder of results, with the files written by `muse step tile` and `muse step
            tissue` in ``<slide_id>/``.
        table: TSV or CSV with the columns ``slide``, ``label`` and optionally ``patient``; replaces
            the sheet's labels.
        class_map: label -> class name of the model, for labels that are not class names.
        backbone: registered name of the backbone, whose image vectors are the features of tiles.
        checkpoint: weights of the backbone: a file or a built-in model's name.
        trust_pickle: whether a checkpoint that contains more than plain tensors may run code while
            it is read.
        folds: number of folds of patients.
        schedule: length and learning rate of each fold's model; a step reads ``bags`` slides.
        bags: slides per step.
        hidden: width of the attention's hidden layer.
        tiles_per_slide: maximum number of tiles per slide: those with the highest attention or, for
            the first class, evenly spread ones.
        least_probability: minimum class probability of a chosen tile, except on slides of the first
            class.
    """

    slides: Path
    stores: Path
    table: Path | None = None
    class_map: dict[str, str] = field(default_factory=dict)
    backbone: str = "muse_compact_24"
    checkpoint: Weights | None = Path("compact")
    trust_pickle: bool = False
    folds: Annotated[int, Between(2, 20)] = 3
    schedule: Schedule = Schedule(steps=300, learning_rate=1e-3, save_every=100)
    bags: Count = 4
    hidden: Count = 64
    tiles_per_slide: Count = 64
    least_probability: Fraction = 0.9


@dataclass(frozen=True, kw_only=True)
class NetworkSettings(RegionModel):
    """Settings of every stage that trains a region network, described in ``MilConfig``."""

    sources: tuple[TissueSource, ...] = ()
    schedule: Schedule
    validation: tuple[TissueSource, ...] = ()
    checkpoint: Weights | None = None
    trust_pickle: bool = False
    teacher: Annotated[str, OneOf(TEACHERS)] = "dice"
    student: StudentSettings = StudentSettings()
    colour: ColourMethod = "macenko"
    window_px: Count = 256
    batch: Count = 16
    seed: Seed = 0
    precision: Precision = "32-true"
    augmentation: Augmentation = Augmentation()

    def __post_init__(self) -> None:
        require_distinct_classes(self.class_names)


@dataclass(frozen=True, kw_only=True)
class MilConfig(NetworkSettings):
    """Settings of a run that trains a region model on labels of images or slides.

    Settings that are not described here are those of ``ModelSettings``.

    Attributes:
        backbone: registered name of the backbone, of which the first three stages are used.
        mpp: um per pixel of the model's input, 1 or 2.
        classes: classes, in order; the first is for all tissue that belongs to no other class.
        sources: labelled images.
        slide_labels: slides with one label each, from which attention MIL selects labelled tiles.
        schedule: length and learning rate of the teacher's training.
        checkpoint: initial backbone of teacher and student: a file or a built-in model's name;
            random if not given.
        trust_pickle: whether a checkpoint that contains more than plain tensors may run code while
            it is read.
        validation: labelled images of other patients; if given, every stage keeps the weights that
            score best on them, by the area under the ROC curve of images.
        fusion: weights of the three side maps, from fine to coarse.
        teacher: "dice": Dice losses with the image's label at every pixel; "gm": cross-entropy of
            generalised means.
        student: settings of the second stage.
        colour: "macenko": normalise the stains of a slide; "identity": leave them.
        window_px: side of a training window, which should be about as large as the images, because
            it gets the label of its image.
        batch: windows per batch and device.
        seed: seed of weights and windows.
        precision: "32-true" or "bf16-mixed".
        augmentation: strength of the augmentation.
        export: settings of the exported model.
        method: name of the method, "mil".
    """

    slide_labels: SlideLabelSettings | None = None
    method: str = "mil"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sources and self.slide_labels is None:
            raise ConfigError(
                "sources: the list is empty; give labelled images as `sources`, or `slide_labels`"
            )


@dataclass(frozen=True, kw_only=True)
class StageConfig(NetworkSettings):
    """The settings of one stage of training.

    Attributes:
        tiles: folder of tiles chosen by attention, which are used like ``sources``.
        previous: checkpoint of the previous stage; None for the teacher.
    """

    tiles: Path | None = None
    previous: Path | None = None


def require_network(config: NetworkSettings) -> None:
    """Reject an unusable network or window before any data is read."""
    with torch.device("meta"):
        network = RegionNetwork(config.backbone, len(config.classes), config.fusion)
    require_window(config.window_px, network.backbone, config.backbone)
