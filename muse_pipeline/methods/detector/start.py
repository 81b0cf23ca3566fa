"""The weights that a detector starts from, and those of its teachers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muse_pipeline.core.config import parse_config
from muse_pipeline.core.errors import CheckpointError, ConfigError
from muse_pipeline.inference.card import AppearanceReference, ColourReference
from muse_pipeline.inference.model import find_checkpoint
from muse_pipeline.methods.detector.config import DetectorConfig, require_window
from muse_pipeline.models.detector import NucleusDetector
from muse_pipeline.training.checkpoint import (
    Checkpoint,
    load_backbone_weights,
    load_checkpoint,
    load_detector_weights,
    load_head_weights,
    read_weights,
)

RETIRED = ("region_px",)  # settings of older checkpoints, which change nothing in a trained network


def load_trained(path: Path) -> tuple[NucleusDetector, DetectorConfig, Checkpoint]:
    """The network in evaluation mode, the settings that it was trained with, and all that the file holds.

    Raises:
        CheckpointError: the file is missing or damaged, holds no detector, one of a network that this version does not
            have, or one that does not fit its own description.
        ConfigError: the settings in it cannot be read.
    """
    checkpoint = load_checkpoint(path)
    if not _holds_detector(checkpoint):
        raise CheckpointError(f"{path}: holds no detector (kind: {checkpoint.meta.get('kind')}); finetune one first")
    settings = {name: value for name, value in checkpoint.meta["config"].items() if name not in RETIRED}
    config = parse_config(settings, DetectorConfig, str(path))
    try:
        network = NucleusDetector(config.backbone, config.head, len(config.classes), config.n_rays)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}; it was trained by another version") from error
    load_detector_weights(network, checkpoint, path)
    return network.eval(), config, checkpoint


@dataclass(frozen=True, eq=False)
class Start:
    """What a run starts from.

    Attributes:
        path: of the checkpoint.
        checkpoint: what it holds.
        is_whole: whether it is a detector of the run's head, classes, rays and um per pixel, which the run goes on
            training; else the run takes the backbone alone.
    """

    path: Path
    checkpoint: Checkpoint
    is_whole: bool

    @property
    def colour(self) -> ColourReference:
        """The reference that the detector's training pictures were taken to."""
        return parse_config(self.checkpoint.meta["colour"], ColourReference, f"{self.path}: colour")

    @property
    def appearance(self) -> AppearanceReference | None:
        """Appearance of the detector's training pictures, if measured."""
        known = self.checkpoint.meta.get("appearance")
        return known and parse_config(known, AppearanceReference, f"{self.path}: appearance")

    def describe(self) -> str:
        """What the run takes, in words."""
        if self.is_whole:
            return f"{self.path.name}, backbone and head"
        if self.checkpoint.head:
            return (
                f"the backbone of {self.path.name}; its head is of other classes, rays, um per pixel or kind, so a new "
                "one is trained"
            )
        return f"the backbone of {self.path.name}"


def read_start(config: DetectorConfig) -> Start | None:
    """The checkpoint that the config names; None for a run that starts from random weights.

    Raises:
        CheckpointError: see ``checkpoint.read_weights``.
    """
    if config.checkpoint is None:
        return None
    path = find_checkpoint(config.checkpoint)
    checkpoint = read_weights(path, config.trust_pickle)
    is_whole = _holds_detector(checkpoint) and _is_same_detector(checkpoint.meta["config"], config)
    return Start(path, checkpoint, is_whole)


def _holds_detector(checkpoint: Checkpoint) -> bool:
    return bool(checkpoint.head) and checkpoint.meta.get("kind") == "detector"  # region models have a head too


def _is_same_detector(begun: dict[str, Any], config: DetectorConfig) -> bool:
    initial = begun["head"], begun["n_rays"], tuple(one["name"] for one in begun["classes"]), begun["mpp"]
    return initial == (config.head, config.n_rays, config.class_names, config.mpp)


def take_over(network: NucleusDetector, start: Start) -> None:
    """Put the weights of ``start`` into a network: the backbone, and the head where it is a whole detector.

    Raises:
        CheckpointError: the backbone is another one.
    """
    path, checkpoint = start.path, start.checkpoint
    load_backbone_weights(network.backbone, checkpoint, path)
    if start.is_whole:
        load_head_weights(network.head, checkpoint, path)


def find_teachers(config: DetectorConfig) -> list[Path]:
    """Checkpoints of the networks that teach the run."""
    return [find_checkpoint(path) for path in config.distillation.teachers] if config.distillation else []


def load_teacher(path: Path, config: DetectorConfig) -> NucleusDetector:
    """A trained network as teacher.

    Raises:
        CheckpointError: see ``load_trained``; or its output or colours are others.
        ConfigError: see ``load_trained``; or it cannot take the run's windows.
    """
    teacher, begun, _ = load_trained(path)
    require_window(config.window_px, teacher.backbone, f"{path} ({begun.backbone})")
    alike = ["head", "class_names", "n_rays", "mpp", "colour"]
    alike += [] if teacher.backbone.lattice.any_size else ["window_px"]  # positions are tied to it
    for name in alike:
        initial, ours = getattr(begun, name), getattr(config, name)
        if initial != ours:
            what = "classes are" if name == "class_names" else f"`{name}` is"
            raise CheckpointError(
                f"{path}: cannot teach this run, for its {what} {_words(initial)} and the run's {_words(ours)}; "
                "teach with a network that was trained for the same, or leave `distillation` out"
            )
    return teacher


def _words(value: object) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)
