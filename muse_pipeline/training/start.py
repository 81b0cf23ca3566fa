"""The weights that runs begin with, of ours or of the MUSE authors, and those that teach a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from muse_pipeline.errors import CheckpointError
from muse_pipeline.inference.model_file import find_checkpoint
from muse_pipeline.models.base import Backbone
from muse_pipeline.models.detector import NucleusDetector
from muse_pipeline.models.weights import backbone_weights, load_weights, read_pickle
from muse_pipeline.training.checkpoint import Checkpoint, is_ours, load_head_weights, parse_checkpoint
from muse_pipeline.training.finetune_config import FinetuneConfig, require_window
from muse_pipeline.training.trained_detector import load_trained


def load_backbone(backbone: Backbone, path: Path, trust_pickle: bool = False) -> Checkpoint | None:
    """Put a checkpoint's weights into a backbone, in place; names and shapes must be exactly the network's.

    Args:
        backbone: of any registered kind.
        path: a checkpoint of ours or a released MUSE file.
        trust_pickle: also unpickle what is no tensor and no plain value, which can run any code.

    Returns:
        All that the file holds, if it is ours.

    Raises:
        CheckpointError: the file cannot be read, or holds something else.
    """
    state = read_pickle(path, trust_pickle)
    ours = parse_checkpoint(state, path) if is_ours(state) else None
    weights = ours.backbone if ours else backbone_weights(state, path)
    load_weights(backbone, weights, path, always_resample=ours is None or ours.meta.get("resample_positions", False))
    return ours


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
    theirs = begun["head"], begun["n_rays"], tuple(one["name"] for one in begun["classes"]), begun["mpp"]
    if theirs != (config.head, config.n_rays, config.class_names, config.mpp):
        return (
            f"the backbone of {path.name}; its head is of other classes, rays, um per pixel or kind, so a new one is "
            "trained"
        )
    load_head_weights(network.head, checkpoint, path)
    return f"{path.name}, backbone and head"


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
    states = [(read_pickle(path, trust_pickle), path) for path in paths]
    ours = [parse_checkpoint(*each) for each in states if is_ours(each[0])]  # the authors' do not say
    names = [field.name for field in fields(Seen)]
    return Seen(**{name: frozenset().union(*(getattr(each, name) for each in ours)) for name in names})


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
