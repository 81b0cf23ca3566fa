"""The weights that runs begin with, of ours or of the MUSE authors, and those that teach a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from muse_pipeline.core.config import parse_config
from muse_pipeline.core.errors import CheckpointError
from muse_pipeline.inference.card import AppearanceReference, ColourReference
from muse_pipeline.inference.model import find_checkpoint
from muse_pipeline.models.base import Backbone
from muse_pipeline.models.detector import NucleusDetector
from muse_pipeline.models.weights import load_weights
from muse_pipeline.training.checkpoint import Checkpoint, load_head_weights, read_weights
from muse_pipeline.training.finetune_config import FinetuneConfig, require_window
from muse_pipeline.training.trained_detector import load_trained


def load_backbone(backbone: Backbone, path: Path, trust_pickle: bool = False) -> Checkpoint:
    """Put a checkpoint's weights into a backbone, in place; names and shapes must be exactly the network's.

    Args:
        backbone: of any registered kind.
        path: a checkpoint of ours or a released MUSE file.
        trust_pickle: see ``checkpoint.read_weights``.

    Returns:
        All that the file holds.

    Raises:
        CheckpointError: the file cannot be read, or holds something else.
    """
    checkpoint = read_weights(path, trust_pickle)
    load_weights(backbone, checkpoint.backbone, path, checkpoint.meta.get("resample_positions", False))
    return checkpoint


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
        """How the detector's training pictures looked, if it was measured."""
        known = self.checkpoint.meta.get("appearance")
        return known and parse_config(known, AppearanceReference, f"{self.path}: appearance")


def read_start(config: FinetuneConfig) -> Start | None:
    """The checkpoint that the config names; None for a run that starts from random weights.

    Raises:
        CheckpointError: see ``checkpoint.read_weights``.
    """
    if config.checkpoint is None:
        return None
    path = find_checkpoint(config.checkpoint)
    checkpoint = read_weights(path, config.trust_pickle)
    return Start(path, checkpoint, bool(checkpoint.head) and _is_same_detector(checkpoint.meta["config"], config))


def _is_same_detector(begun: dict[str, Any], config: FinetuneConfig) -> bool:
    theirs = begun["head"], begun["n_rays"], tuple(one["name"] for one in begun["classes"]), begun["mpp"]
    return theirs == (config.head, config.n_rays, config.class_names, config.mpp)


def take_over(network: NucleusDetector, start: Start) -> str:
    """Put the weights of ``start`` into a network: the backbone, and the head where it is a whole detector.

    Returns:
        What was taken, in words.

    Raises:
        CheckpointError: the backbone is another one.
    """
    path, checkpoint = start.path, start.checkpoint
    load_weights(network.backbone, checkpoint.backbone, path, checkpoint.meta.get("resample_positions", False))
    if start.is_whole:
        load_head_weights(network.head, checkpoint, path)
        return f"{path.name}, backbone and head"
    if checkpoint.head:
        return (
            f"the backbone of {path.name}; its head is of other classes, rays, um per pixel or kind, so a new one is "
            "trained"
        )
    return f"the backbone of {path.name}"


@dataclass(frozen=True)
class Seen:
    """What weights had been trained on before a run, as far as they say.

    Attributes:
        images: names of pictures and slides.
        patients: whose these were, and those of the validations that chose weights.
        learnt_patients: without the latter.
    """

    images: frozenset[str] = frozenset()
    patients: frozenset[str] = frozenset()
    learnt_patients: frozenset[str] = frozenset()


def seen_before(paths: Sequence[Path], trust_pickle: bool = False) -> Seen:
    """What the checkpoints that a run begins with, or is taught by, have seen: its own weights have then seen it too.

    Raises:
        CheckpointError: one cannot be read.
    """
    checkpoints = [read_weights(path, trust_pickle) for path in paths]
    names = [field.name for field in fields(Seen)]
    return Seen(**{name: frozenset().union(*(getattr(each, name) for each in checkpoints)) for name in names})


def find_teachers(config: FinetuneConfig) -> list[Path]:
    """Checkpoints of the networks that teach the run."""
    return [find_checkpoint(path) for path in config.distillation.teachers] if config.distillation else []


def load_teacher(path: Path, config: FinetuneConfig) -> NucleusDetector:
    """A trained network that says what the run is to learn.

    Raises:
        CheckpointError: see ``load_trained``; or it says other things or of other colours.
        ConfigError: see ``load_trained``; or it cannot take the run's windows.
    """
    teacher, begun, _ = load_trained(path)
    require_window(config.window_px, teacher.backbone, f"{path} ({begun.backbone})")
    alike = ["head", "class_names", "n_rays", "mpp", "colour"]
    alike += [] if teacher.backbone.lattice.any_size else ["window_px"]  # positions are tied to it
    for name in alike:
        theirs, ours = getattr(begun, name), getattr(config, name)
        if theirs != ours:
            what = "classes are" if name == "class_names" else f"`{name}` is"
            raise CheckpointError(
                f"{path}: cannot teach this run, for its {what} {_words(theirs)} and the run's {_words(ours)}; "
                "teach with a network that was trained for the same, or leave `distillation` out"
            )
    return teacher


def _words(value: object) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)
