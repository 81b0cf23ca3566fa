"""Initial weights and teachers of a detector's training, and texts for the card that describe
them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muse_pipeline.core.config import parse_config
from muse_pipeline.core.errors import CheckpointError, ConfigError
from muse_pipeline.core.text import join_sentences
from muse_pipeline.inference.card import AppearanceReference, ColourReference
from muse_pipeline.inference.model import find_checkpoint, read_measured
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


def load_trained(path: Path) -> tuple[NucleusDetector, DetectorConfig, Checkpoint]:
    """Return the network of a checkpoint in evaluation mode, the settings of its training, and the
    checkpoint.
    """
    checkpoint = load_checkpoint(path)
    if not _holds_detector(checkpoint):
        raise CheckpointError(
            f"{path}: holds no detector (kind: {checkpoint.meta.get('kind')}); finetune one first"
        )
    config = parse_config(checkpoint.meta["config"], DetectorConfig, str(path))
    try:
        network = NucleusDetector(config.backbone, config.head, len(config.classes), config.n_rays)
    except ConfigError as error:
        raise CheckpointError(
            f"{path}: {error}; it was trained with a different version of this package"
        ) from error
    load_detector_weights(network, checkpoint, path)
    return network.eval(), config, checkpoint


def describe_origins(
    paths: Sequence[Path], config: DetectorConfig, images: Collection[str]
) -> dict[str, str]:
    """Describe the training data and limits of a run's initial detector and teachers, for the card
    of its model.

    Files without a detector, and detectors that were trained only on the run's own ``images``, are
    omitted, except for the published encoder that they began with.
    """
    texts = {"training_data": [], "limits": [], "encoder": []}
    for path in dict.fromkeys(paths):
        checkpoint = read_weights(path, config.trust_pickle)
        encoder = checkpoint.meta.get("origins", {}).get("encoder", "")
        if encoder not in texts["encoder"]:
            texts["encoder"].append(encoder)
        if not _holds_detector(checkpoint) or checkpoint.seen.images <= set(images):
            continue
        origin = parse_config(checkpoint.meta["config"], DetectorConfig, str(path))
        card = complete_texts(origin, checkpoint.meta)
        role = (
            "It continues"
            if config.checkpoint and path == find_checkpoint(config.checkpoint)
            else "Its teacher is"
        )
        texts["training_data"].append(
            f"{role} {origin.name}, which was trained on: {card['training_data']}"
        )
        if card["limits"]:
            texts["limits"].append(f"Of {origin.name}: {card['limits']}")
    return {name: join_sentences(*sentences) for name, sentences in texts.items()}


def complete_texts(config: DetectorConfig, meta: Mapping[str, Any]) -> dict[str, str]:
    """Training data and limits for a detector's card: those of the run, then those from
    ``describe_origins``.
    """
    origins = meta.get("origins", {})
    limits = origins.get("limits", "")
    data = origins.get("training_data", "")
    encoder = origins.get("encoder", "")
    return {
        "training_data": join_sentences(config.credits, data, "" if encoder in data else encoder),
        "limits": limits if config.limits in limits else join_sentences(config.limits, limits),
    }


@dataclass(frozen=True, eq=False)
class Start:
    """The initial checkpoint of a run."""

    path: Path  # the file
    checkpoint: Checkpoint  # contents of the file
    # whether it contains a detector with the run's head, classes, rays and um per pixel, which the
    # run continues; otherwise only its backbone is used
    is_whole: bool

    @property
    def colour(self) -> ColourReference:
        """The colour reference to which the detector's training pictures were normalised."""
        return parse_config(self.checkpoint.meta["colour"], ColourReference, f"{self.path}: colour")

    @property
    def appearance(self) -> AppearanceReference | None:
        """Appearance of the detector's training pictures; None if it was not measured."""
        values = self.checkpoint.meta.get("appearance")
        return values and parse_config(values, AppearanceReference, f"{self.path}: appearance")

    @property
    def unlike(self) -> dict[str, list[str]]:
        """Tissues in which nuclei of each class of the detector do not occur."""
        return self.checkpoint.meta.get("unlike") or read_measured(self.path).get("unlike", {})

    def describe(self) -> str:
        """Describe the weights that the run uses."""
        if self.is_whole:
            return f"{self.path.name}, backbone and head"
        if self.checkpoint.head:
            return (
                f"the backbone of {self.path.name}; its head has other classes, rays, um per pixel"
                " or kind, so a new one is trained"
            )
        return f"the backbone of {self.path.name}"


def read_start(config: DetectorConfig) -> Start | None:
    """Read the checkpoint that the config names; return None for a run that starts from random
    weights.
    """
    if config.checkpoint is None:
        return None
    path = find_checkpoint(config.checkpoint)
    checkpoint = read_weights(path, config.trust_pickle)
    if not _holds_detector(checkpoint):
        return Start(path, checkpoint, is_whole=False)
    begun = checkpoint.meta["config"]
    classes = tuple(values["name"] for values in begun["classes"])
    initial = begun["head"], begun["n_rays"], classes, begun["mpp"]
    is_whole = initial == (config.head, config.n_rays, config.class_names, config.mpp)
    return Start(path, checkpoint, is_whole)


def _holds_detector(checkpoint: Checkpoint) -> bool:
    # region models have a head too
    return bool(checkpoint.head) and checkpoint.meta.get("kind") == "detector"


def take_over(network: NucleusDetector, start: Start) -> None:
    """Load the weights of ``start`` into a network: the backbone and, if ``is_whole``, the head."""
    load_backbone_weights(network.backbone, start.checkpoint, start.path)
    if start.is_whole:
        load_head_weights(network.head, start.checkpoint, start.path)


def find_teachers(config: DetectorConfig) -> list[Path]:
    """Checkpoints of the run's teachers."""
    if config.distillation:
        return [find_checkpoint(path) for path in config.distillation.teachers]
    return []


def load_teacher(path: Path, config: DetectorConfig) -> NucleusDetector:
    """Load a trained detector as a teacher."""
    teacher, begun, _ = load_trained(path)
    require_window(config.window_px, teacher.backbone, f"{path} ({begun.backbone})")
    alike = ["head", "class_names", "n_rays", "mpp", "colour"]
    # a fixed window must be the same
    alike += [] if teacher.backbone.lattice.any_size else ["window_px"]
    for name in alike:
        initial, ours = getattr(begun, name), getattr(config, name)
        if initial != ours:
            what = "classes are" if name == "class_names" else f"`{name}` is"
            initial, ours = (
                ", ".join(value) if isinstance(value, tuple) else value for value in (initial, ours)
            )
            raise CheckpointError(
                f"{path}: cannot teach this run, because its {what} {initial}, not {ours} as in the"
                " run; use a teacher that was trained with the run's settings, or leave"
                " `distillation` out"
            )
    return teacher
