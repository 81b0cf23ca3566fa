"""The settings of a fine-tuning run, from YAML."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from muse_pipeline.core.config import parse_config, read_settings, require_between, require_one_of, starting_at
from muse_pipeline.core.errors import ConfigError
from muse_pipeline.data.augment import Augmentation
from muse_pipeline.data.stream import MAX_SEED
from muse_pipeline.inference.card import NucleusClass
from muse_pipeline.inference.model import checkpoint_from, find_checkpoint
from muse_pipeline.labels.sources import LabelSource
from muse_pipeline.methods import METHODS
from muse_pipeline.methods.consistency import ConsistencySettings
from muse_pipeline.methods.distillation import DistillationSettings
from muse_pipeline.models import BACKBONES, HEADS
from muse_pipeline.models.base import Backbone
from muse_pipeline.training.checkpoint import read_weights
from muse_pipeline.training.export_settings import ExportSettings
from muse_pipeline.training.schedule import Schedule

PRECISIONS = ("32-true", "bf16-mixed")
COLOURS = ("macenko", "identity")
CARD_ONLY = ("name", "licence", "training_data", "limits", "export", "metrics")  # settings that train nothing
# No validation depends on these of the export's.
UNSCORED = ("export.batch", "export.precision", "export.embedding", "export.any_window")


@dataclass(frozen=True)
class FinetuneConfig:
    """A training run.

    Attributes:
        name: of the model.
        backbone: registered name.
        mpp: um per pixel the network works at.
        classes: what it tells apart, in order.
        sources: labelled images.
        schedule: how long and how fast.
        licence: of the weights.
        training_data: for the card, in words.
        limits: for the card, in words.
        checkpoint: what to start from: a file of ours, an official one or a built-in model's name. Its head is taken
            too where it is of the same kind, classes and rays. Random weights without one.
        trust_pickle: whether a checkpoint that needs more than plain tensors may run code while it is read.
        validation: labelled images of other patients; the run then keeps the weights that do best on them.
        method: registered name of the way of learning from labels.
        head: registered name.
        n_rays: rays per outline.
        colour: "macenko" or "identity": how a slide's colour is taken to the reference.
        window_px: side of a training window.
        region_px: side of the square that keeps its labels, for trials with labels of less than a window.
        consistency: how the network teaches itself outside of annotated regions; it does not unless this is given.
        distillation: trained networks that teach beside the labels; none do unless this is given.
        batch: windows per batch (and device).
        backbone_rate: factor of the learning rate on the backbone.
        seed: of weights and windows.
        precision: "32-true" or "bf16-mixed".
        augmentation: how far windows are varied.
        export: how the model will be run; what is not set is taken from ``checkpoint`` if that is a detector.
        metrics: measured elsewhere, for the card.
    """

    name: str
    backbone: str
    mpp: float
    classes: tuple[NucleusClass, ...]
    sources: tuple[LabelSource, ...]
    schedule: Schedule
    licence: str
    training_data: str
    limits: str = ""
    checkpoint: Path | None = None
    trust_pickle: bool = False
    validation: tuple[LabelSource, ...] = ()
    method: str = "detector"
    head: str = "dense"
    n_rays: int = 32
    colour: str = "macenko"
    window_px: int = 256
    region_px: int | None = None
    consistency: ConsistencySettings | None = None
    distillation: DistillationSettings | None = None
    batch: int = 16
    backbone_rate: float = 1.0
    seed: int = 0
    precision: str = "32-true"
    augmentation: Augmentation = field(default_factory=Augmentation)
    export: ExportSettings = field(default_factory=ExportSettings)
    metrics: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_between(self, "", mpp=(0.01, 100), n_rays=(3, 360), window_px=(1, math.inf), region_px=(1, math.inf))
        require_between(self, "", batch=(1, math.inf), seed=(0, MAX_SEED), backbone_rate=(0, math.inf))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in order."""
        return tuple(one.name for one in self.classes)


def load_finetune_config(path: Path, data: Path | None = None, changes: Iterable[str] = ()) -> FinetuneConfig:
    """Read a config; export settings that it does not set are those of the detector that it starts from.

    Args:
        path: of the YAML file; a ``checkpoint``, or a teacher, that is a path starts at its folder.
        data: where the paths of label sources start; the config's own folder when not given.
        changes: ``key=value``, see ``config.load_config``.

    Raises:
        CheckpointError: ``checkpoint`` is there and cannot be read.
        ConfigError: see ``config.load_config``; or a name is not registered.
    """
    values = read_settings(path, changes)
    config = parse_config(values, FinetuneConfig, str(path))
    root = (data or Path(path).parent).resolve()
    folder = Path(path).parent.resolve()
    if config.checkpoint is not None:
        config = dataclasses.replace(config, checkpoint=checkpoint_from(folder, config.checkpoint))
        config = dataclasses.replace(config, export=_inherit_export(config, values.get("export", {}), str(path)))
    if config.distillation is not None:
        teachers = tuple(checkpoint_from(folder, teacher) for teacher in config.distillation.teachers)
        config = dataclasses.replace(config, distillation=dataclasses.replace(config.distillation, teachers=teachers))
    return dataclasses.replace(
        config,
        sources=tuple(starting_at(source, root) for source in config.sources),
        validation=tuple(starting_at(source, root) for source in config.validation),
    )


def _inherit_export(config: FinetuneConfig, given: dict[str, Any], where: str) -> ExportSettings:
    """The export settings of the detector that the run starts from, replaced by those that the config sets."""
    path = find_checkpoint(config.checkpoint)
    if not path.is_file():  # `finetune` says so; the workflow may be about to make it
        return config.export
    inherited = read_weights(path, config.trust_pickle).meta.get("config", {}).get("export", {})
    return parse_config({**inherited, **given}, ExportSettings, f"{where}: export")


def require_known_names(config: FinetuneConfig) -> None:
    """Refuse what this version does not have, before any data is read.

    Raises:
        ConfigError: the nearest name is given.
    """
    for registry, name in ((BACKBONES, config.backbone), (HEADS, config.head), (METHODS, config.method)):
        registry[name]
    require_one_of(config, "", precision=PRECISIONS, colour=COLOURS)
    if not config.sources:
        raise ConfigError("sources: there is none; name labelled pictures or slides")
    names = config.class_names
    if not names or not all(names):
        raise ConfigError("classes: there is none, or one without a name; name what the network is to tell apart")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"classes: {', '.join(repeated)} is named more than once; name each class once")


def require_window(window_px: int, backbone: Backbone, name: str) -> None:
    """Refuse windows that a network cannot take.

    Raises:
        ConfigError: the side is no multiple of the network's stride; ``name`` is the network's.
    """
    if window_px % backbone.stride_px:
        raise ConfigError(
            f"a window of {window_px} px does not suit {name}; give a multiple of its stride, {backbone.stride_px} px"
        )
