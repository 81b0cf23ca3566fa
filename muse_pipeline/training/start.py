"""The weights that a fine-tuning run begins with, and those that teach it."""

from __future__ import annotations

from pathlib import Path

from muse_pipeline.errors import CheckpointError
from muse_pipeline.inference.predictor import BUILT_IN
from muse_pipeline.models.detector import NucleusDetector
from muse_pipeline.training.checkpoint import load_head_weights
from muse_pipeline.training.finetune_config import FinetuneConfig, require_window
from muse_pipeline.training.initial import load_backbone
from muse_pipeline.training.trained_detector import load_trained


def take_over(network: NucleusDetector, config: FinetuneConfig) -> str:
    """Begin with the weights of the config's checkpoint: its backbone, and its head where that means the same.

    Returns:
        What was taken, in words.

    Raises:
        CheckpointError: the file is missing or its backbone is another one.
    """
    path = find_checkpoint(config.checkpoint)
    checkpoint = load_backbone(network.backbone, path, config.trust_pickle)
    if checkpoint is None or not checkpoint.head:
        return f"the backbone of {path.name}"
    begun = checkpoint.meta["config"]
    theirs = begun["head"], begun["n_rays"], tuple(one["name"] for one in begun["classes"])
    if theirs != (config.head, config.n_rays, config.class_names):
        return f"the backbone of {path.name}; its head is of other classes, rays or kind, so a new one is trained"
    load_head_weights(network.head, checkpoint, path)
    return f"{path.name}, backbone and head"


def find_checkpoint(path: Path) -> Path:
    """The checkpoint beside the graph of a built-in model's name, or the path itself."""
    named = BUILT_IN / f"{path}.pt"
    return named if named.is_file() else path


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
                "teach with a network that was trained for the same"
            )
    return teacher


def _words(value: object) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)
