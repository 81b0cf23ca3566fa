"""The settings of UNITPathSSL: data, networks, losses and schedule, with the source of each number.

"paper": the paper or its official pages; "code": the authors' settings files; "secondary":
re-implementations or project pages by other people; "ours": a choice of this project.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from muse_pipeline.core.config import Between, Count, Fraction, Mpp, NotNegative, OneOf, Weights
from muse_pipeline.core.errors import ConfigError
from muse_pipeline.data.augment import Augmentation, Seed
from muse_pipeline.data.nucleus_images import NucleusSource
from muse_pipeline.data.unlabelled import UnlabelledSource, picture_files
from muse_pipeline.inference.card import NucleusClass
from muse_pipeline.methods.detector.config import (
    ColourMethod,
    DetectorConfig,
    ExportSettings,
    export_window,
    require_windows,
)
from muse_pipeline.methods.unit.synthesis_masks import TissueSettings, require_drawable
from muse_pipeline.training.devices import Precision
from muse_pipeline.training.method import Schedule
from muse_pipeline.training.recipe import ModelSettings

ADVERSARIAL = ("least squares", "logistic")
NUCLEUS = NucleusClass("Nucleus", (128, 64, 192))


@dataclass(frozen=True)
class GeneratorSettings:
    """Settings of the co-modulated generator (``translation``).

    Attributes:
        base: channels at stride 1.
        most: largest number of channels.
        levels: number of times that the encoder halves the resolution.
        noise_dim: length of the noise z.
        style_dim: length of the style w.
        code_dim: length of the mask's code.
        mapping_layers: layers of the perceptron from z to w.
        skip_stride: smallest stride with skip connections from encoder to decoder.
        dropout: dropout probability of the mask's code.
    """

    # code: min(16384 / resolution, 512) channels, which is 64 at 256 px
    base: Annotated[int, Between(1, 1024)] = 64
    most: int = 512  # code
    levels: Annotated[int, Between(1, 8)] = 6  # code: from 256 to 4 px
    noise_dim: int = 512  # code
    style_dim: int = 512  # code
    code_dim: int = 1024  # code
    mapping_layers: Annotated[int, Between(1, 16)] = 8  # code ("paper256")
    skip_stride: int = 4  # code: SKIP_RESOLUTION 64 of 256 px
    dropout: Fraction = 0.5  # code


@dataclass(frozen=True)
class ReaderSettings:
    """Settings of the reader S (``translation``).

    Attributes:
        backbone: registered name of the backbone.
        n_rays: rays per outline in the instance head.
        widths: channels of the translation head at strides 4 and 2.
    """

    backbone: str = "muse_compact_48"  # ours; code: ResNet-50 with a feature pyramid and group norm
    n_rays: Annotated[int, Between(4, 256)] = 32  # ours; code: Mask R-CNN
    widths: tuple[int, int] = (128, 64)  # code


@dataclass(frozen=True)
class DiscriminatorSettings:
    """Settings of a discriminator (``translation``) and its loss.

    Attributes:
        widths: channels of the strided convolutions.
        loss: "least squares", or "logistic" with R1.
        r1_gamma: weight of R1.
        r1_every: interval of R1 in steps; the penalty is multiplied by it.
    """

    # masks: code; pictures: ours (code: StyleGAN2's network)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    loss: Annotated[str, OneOf(ADVERSARIAL)] = "least squares"  # masks: code
    r1_gamma: NotNegative = 1.0  # pictures: code
    r1_every: Count = 16  # ours, as in StyleGAN2


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of the objective (``losses``).

    Attributes:
        picture_gan: adversarial loss of rendered tissue.
        mask_gan: adversarial loss of masks that the reader predicts on real tissue.
        cycle: cycle consistency, in both directions.
        instances: instance loss of the reader on rendered tissue.
        painted: colour prior (``losses``): its weight at the first step, and its weight from a
            quarter of the first stage on; linear in between.
    """

    picture_gan: NotNegative = 1.0  # code
    mask_gan: NotNegative = 1.0  # code; secondary: 2
    cycle: NotNegative = 10.0  # code and secondary
    instances: NotNegative = 6.0  # code; secondary: 2
    painted: tuple[NotNegative, NotNegative] = (0.0, 0.0)  # ours; the paper has none


@dataclass(frozen=True)
class SecondStageSettings:
    """Settings that differ in the second stage, which starts with a new reader and a new
    discriminator of masks.

    Attributes:
        steps: number of steps.
        learning_rate: highest learning rate.
    """

    steps: Count = 25_000  # secondary
    learning_rate: Annotated[float, Between(1e-9, 1)] = 1e-4  # code


@dataclass(frozen=True)
class UnitConfig(ModelSettings):
    """Settings of a run that trains a detector on unlabelled tissue.

    Settings that are not described here are those of ``ModelSettings``.

    Attributes:
        schedule: schedule of both stages, except for what ``second`` sets; the learning rate is
            that of generator and reader, and the weight decay is ignored.
        sources: unlabelled H&E tissue; without sources the workflow trains on its own slides.
        second: length and learning rate of the second stage.
        mpp: um per pixel of all networks.
        window_px: side of the windows of masks and tissue.
        batch: windows of each domain per step (and device).
        masks: folder written by ``muse synthesize masks``; masks are synthesised if not given.
        n_masks: number of synthesised masks.
        mask_px: side of synthesised masks; windows are cut from them.
        tissue: settings of the synthesised tissue.
        checkpoint: initial backbone of the reader, in both stages; random if not given.
        colour: "macenko": normalise all tissue, in training and at run time, to the mean stains of
            the sources; "identity": keep its colours.
        augmentation: variation of appearance of the reader's input; geometric settings and
            ``partial_colour`` have no effect.
        discriminator_rate: learning rate of the discriminators, relative to the schedule's.
        weights: weights of the losses.
        generator: generator of tissue.
        reader: reader of masks and nuclei.
        pictures: discriminator of tissue.
        mask_discriminator: discriminator of masks.
        seed: seed of weights, masks and windows.
        precision: "32-true" or "bf16-mixed".
        calibrate: whether the score threshold of the export is chosen, without labels
            (``monitors.SnapshotScorer``); otherwise ``export.threshold`` is used.
        export: settings of the exported detector.
        method: name of the method, "unit".
    """

    schedule: Schedule
    sources: tuple[UnlabelledSource, ...] = ()
    second: SecondStageSettings = SecondStageSettings()
    mpp: Mpp = 0.5  # ours; code: 0.25
    window_px: Annotated[int, Between(16, 4096)] = 256  # code
    batch: Count = 12  # code; secondary: 24
    masks: Path | None = None
    n_masks: Annotated[int, Between(1, 1_000_000)] = 10_800  # code
    mask_px: Annotated[int, Between(16, 4096)] = 320  # code: windows are 0.8 of a tile
    tissue: TissueSettings = TissueSettings()
    # uncertain: the authors' runs start from an unnamed weight file
    checkpoint: Weights | None = None
    colour: ColourMethod = "macenko"  # ours; the paper has none
    augmentation: Augmentation = Augmentation()  # ours; the paper has none
    discriminator_rate: Annotated[float, Between(0, 100)] = 1.0  # code
    weights: LossWeights = LossWeights()
    generator: GeneratorSettings = GeneratorSettings()
    reader: ReaderSettings = ReaderSettings()
    pictures: DiscriminatorSettings = DiscriminatorSettings(loss="logistic")  # code
    mask_discriminator: DiscriminatorSettings = DiscriminatorSettings()
    seed: Seed = 0
    precision: Precision = "32-true"
    calibrate: bool = True
    export: ExportSettings = ExportSettings(threshold=0.2)
    method: str = "unit"
    slide_files: ClassVar = ("store",)
    classes: ClassVar = (NUCLEUS,)

    @property
    def backbone(self) -> str:
        """The registered name of the reader's backbone."""
        return self.reader.backbone

    @property
    def store_mpp(self) -> float:
        """Um per pixel of the stores of a cohort's slides."""
        return self.mpp

    def pair(self, source: NucleusSource, partner: Path | None) -> UnlabelledSource:
        """The tissue of a slide of a cohort, without its nuclei and its partner."""
        return UnlabelledSource(store=source.store)


@dataclass(frozen=True)
class UnitStageConfig(UnitConfig):
    """Settings of one stage; ``previous`` is None in the first, and the first stage's checkpoint in
    the second.
    """

    previous: Path | None = None


def stage_config(config: UnitConfig, masks: Path, previous: Path | None) -> UnitStageConfig:
    """The settings of the first stage or, with ``previous``, the first stage's checkpoint, of the
    second.
    """
    schedule = config.schedule
    if previous is not None:
        schedule = dataclasses.replace(schedule, **vars(config.second))
    return UnitStageConfig(
        **{**vars(config), "masks": masks, "schedule": schedule, "previous": previous}
    )


THRESHOLD = "validation threshold"  # key among the scores of a snapshot


def detector_config(config: UnitConfig, threshold: float) -> DetectorConfig:
    """The settings of the resulting detector, which has the reader's backbone and instance head,
    and one class.
    """
    return DetectorConfig(
        **config.select(ModelSettings),
        backbone=config.reader.backbone,
        mpp=config.mpp,
        classes=config.classes,
        sources=(),
        schedule=config.schedule,
        n_rays=config.reader.n_rays,
        colour=config.colour,
        window_px=config.window_px,
        batch=config.batch,
        seed=config.seed,
        precision=config.precision,
        export=dataclasses.replace(config.export, threshold=threshold),
    )


def require_sound_translation(config: UnitConfig) -> None:
    """Check names, windows, the size of nuclei and folders before any data is read."""
    for source in config.sources:
        if source.images is not None:
            picture_files(source.images)
    if config.mask_px < config.window_px:
        raise ConfigError(
            f"mask_px is {config.mask_px}; give {config.window_px} or more, the side of windows"
        )
    backbone = require_windows(config.reader.backbone, config.window_px)
    export_window(detector_config(config, config.export.threshold), backbone)
    strides = {
        "the generator": 2**config.generator.levels,
        "the discriminator of tissue": 2 ** len(config.pictures.widths),
        "the discriminator of masks": 2 ** len(config.mask_discriminator.widths),
    }
    for network, stride_px in strides.items():
        if config.window_px % stride_px:
            raise ConfigError(
                f"window_px: {config.window_px} px does not suit {network}; give a multiple of"
                f" {stride_px} px"
            )
    if config.masks is None:
        require_drawable(config.mask_px, config.mpp, config.tissue)
