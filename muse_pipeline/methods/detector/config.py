"""The settings of a detector's training, and checks of its windows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch

from muse_pipeline.core.config import (
    Between,
    Count,
    Fraction,
    Mpp,
    NotNegative,
    OneOf,
    Positive,
    Weights,
)
from muse_pipeline.core.errors import ConfigError
from muse_pipeline.core.types import ModelPrecision
from muse_pipeline.data.augment import Augmentation, Seed
from muse_pipeline.inference.card import MAX_SNAP_UM, NucleusClass, replace_outlines
from muse_pipeline.inference.model import checkpoint_from, find_checkpoint
from muse_pipeline.labels.label_sources import ParsedSource
from muse_pipeline.methods.detector.method import DistillationSettings
from muse_pipeline.methods.detector.mixing import MixingSettings
from muse_pipeline.models import BACKBONES, HEADS
from muse_pipeline.models.base import Backbone
from muse_pipeline.training.checkpoint import read_weights
from muse_pipeline.training.devices import Precision
from muse_pipeline.training.method import Schedule
from muse_pipeline.training.recipe import (
    CARD,
    ModelSettings,
    require_distinct_classes,
    require_training_data,
)


@dataclass(frozen=True)
class ExportSettings:
    """Settings of the exported model (``inference.card.ModelCard``).

    Attributes:
        input_px: side of a window; by default 1,024 px, or the training window if the network
            accepts no other.
        halo_px: width of a window's border; nuclei in it are taken from neighbouring windows.
        batch: windows per call.
        capacity: largest number of nuclei per window.
        threshold: minimum score of the nuclei that are kept.
        precision: "fp32", "fp16" or "int8".
        embedding: whether to return the feature vector of every nucleus as well.
        any_window: whether a network that is tied to its training window may be exported for
            another window size.
        colour_share: strength of the stain normalisation at run time, 0 to 1.
        snap_um: largest distance, um, by which outlines are moved to the nearest edge of the
            stained nucleus. Replaces an inherited ``refine``.
        refine: whether the built-in network refines outlines; cannot be combined with ``snap_um``.
    """

    input_px: Count | None = None
    halo_px: Annotated[int, Between(0)] = 32
    batch: Count = 1
    capacity: Count = 8192
    threshold: Fraction = 0.4
    precision: ModelPrecision = "fp32"
    embedding: bool = False
    any_window: bool = False
    colour_share: Fraction = 1.0
    snap_um: Annotated[float, Between(0, MAX_SNAP_UM)] = 0.0
    refine: bool = False

    def __post_init__(self) -> None:
        if self.refine and self.snap_um:
            raise ConfigError(
                "export: refine and snap_um exclude each other; set refine to false or snap_um to 0"
            )


ColourMethod = Annotated[str, OneOf(("macenko", "identity"))]
CARD_ONLY = (*CARD, "organ")  # settings without effect on training
# Settings of the export that do not affect validation scores.
UNSCORED = ("export.batch", "export.precision", "export.embedding", "export.any_window")


@dataclass(frozen=True)
class DetectorConfig(ModelSettings):
    """Settings of a training run.

    Settings that are not described here are those of ``ModelSettings``.

    Attributes:
        backbone: registered name of the backbone.
        mpp: um per pixel of the network's input.
        classes: classes, in order.
        sources: labelled images.
        schedule: length and learning rate.
        checkpoint: initial weights: a checkpoint of this package, a released MUSE or
            EfficientNet-Lite file, or the name of a built-in model; random if not given. Its head
            is loaded too if its kind, classes, rays and um per pixel match.
        trust_pickle: whether a checkpoint that contains more than plain tensors may run code while
            it is read.
        validation: labelled images of other patients; the run keeps the weights that score best on
            them.
        head: registered name of the head.
        n_rays: rays per outline.
        colour: "macenko": normalise the stains of a slide; "identity": leave them.
        window_px: side of a training window.
        distillation: trained networks as teachers; none by default.
        mixing: average of the trained weights and those of ``checkpoint``, in a proportion chosen
            on held-out labels; used only if the head is loaded too. Steps and learning rate then
            depend on the number of labelled nuclei.
        minutes: longest duration of all trainings of a single process, each of which is shortened
            if needed to keep it.
        batch: windows per batch and device.
        backbone_rate: learning rate of the backbone, relative to the schedule's.
        seed: seed of weights and windows.
        precision: "32-true" or "bf16-mixed".
        augmentation: strength of the augmentation.
        export: settings of the exported model; those not given are taken from ``checkpoint`` if it
            is a detector.
        organ: organ of labels whose sheet states none; the model's card lists the organs in
            which a class has at least 20 validation labels (or labels, without `validation`).
        method: name of the method, "detector".
    """

    backbone: str
    mpp: Mpp
    classes: tuple[NucleusClass, ...]
    sources: tuple[ParsedSource, ...]
    schedule: Schedule
    checkpoint: Weights | None = None
    trust_pickle: bool = False
    validation: tuple[ParsedSource, ...] = ()
    head: str = "dense"
    n_rays: Annotated[int, Between(3, 360)] = 32
    colour: ColourMethod = "macenko"
    window_px: Count = 256
    distillation: DistillationSettings | None = None
    mixing: MixingSettings | None = None
    minutes: Positive | None = None
    batch: Count = 16
    backbone_rate: NotNegative = 1.0
    seed: Seed = 0
    precision: Precision = "32-true"
    augmentation: Augmentation = Augmentation()
    export: ExportSettings = ExportSettings()
    organ: str = ""
    method: str = "detector"

    @property
    def credits(self) -> str:
        """``training_data`` and the licences given in the sources, for the card."""
        stated = dict.fromkeys(
            f"{source.labels.name} {source.licence}" for source in self.sources if source.licence
        )
        if stated:
            return f"{self.training_data} Licences: {', '.join(stated)}."
        return self.training_data


def inherit_export(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return settings of a file in ``folder`` in which missing export settings are taken from the
    initial detector.
    """
    name, given = values.get("checkpoint"), values.get("export") or {}
    if not isinstance(name, str) or not isinstance(given, dict):  # parsing reports the error
        return values
    path = find_checkpoint(checkpoint_from(folder, Path(name)))
    # a missing file is reported when the run begins, because the workflow may still write it
    if not path.is_file():
        return values
    inherited = (
        read_weights(path, bool(values.get("trust_pickle")))
        .meta.get("config", {})
        .get("export", {})
    )
    return {**values, "export": {**inherited, **replace_outlines(given)}}


def require_sound_detector(config: DetectorConfig) -> None:
    """Reject unusable settings before any data is read."""
    for registry, name in ((BACKBONES, config.backbone), (HEADS, config.head)):
        registry[name]
    if not config.sources:
        raise ConfigError("sources: the list is empty; name labelled pictures or slides")
    names = config.class_names
    if not names or not all(names):
        raise ConfigError(
            "classes: the list is empty, or a class has no name; list the classes of the network"
        )
    require_distinct_classes(names)
    require_training_data(config.training_data)
    export_window(config, require_windows(config.backbone, config.window_px))


def require_windows(name: str, *sides_px: int) -> Backbone:
    """Build the registered backbone ``name``, without weights, and require that it accepts windows
    of ``sides_px``.
    """
    with torch.device("meta"):  # allocates no memory and draws no random numbers
        backbone = BACKBONES[name]()
    for side_px in sides_px:
        require_window(side_px, backbone, name)
    return backbone


def require_window(window_px: int, backbone: Backbone, name: str) -> None:
    """Reject a window that a network does not accept; ``name`` is the network's name in the
    message.
    """
    if window_px % backbone.stride_px:
        raise ConfigError(
            f"a window of {window_px} px does not suit {name}; give a multiple of its stride,"
            f" {backbone.stride_px} px"
        )


# default for networks that accept any window; large, so that few pixels are in two windows
WINDOW_PX = 1024


def export_window(config: DetectorConfig, backbone: Backbone) -> int:
    """Side of the exported model's window in px.

    A network that ties positions to its window (``models.base.Lattice``) keeps its training window
    unless ``any_window`` is set.
    """
    settings, stride_px = config.export, backbone.stride_px
    tied = not backbone.lattice.any_size
    input_px = settings.input_px or (config.window_px if tied else WINDOW_PX)
    if tied and input_px != config.window_px and not settings.any_window:
        raise ConfigError(
            f"export: {config.backbone} ties positions to its window and is trained with"
            f" {config.window_px} px, not {input_px}; leave `input_px` out, or set `any_window:"
            " true` to use this size nevertheless"
        )
    if input_px % stride_px or settings.halo_px % stride_px or input_px <= 2 * settings.halo_px:
        raise ConfigError(
            f"export: a window of {input_px} px with a halo of {settings.halo_px} px does not suit"
            f" {config.backbone}; give multiples of its stride, {stride_px} px, and a halo of less"
            " than half the window"
        )
    return input_px
