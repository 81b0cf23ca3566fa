"""The weights that a run starts from, and the data that they were trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from muse_pipeline.models.base import Backbone
from muse_pipeline.training.checkpoint import Checkpoint, load_backbone_weights, read_weights


def load_backbone(backbone: Backbone, path: Path, trust_pickle: bool = False) -> Checkpoint:
    """Put a checkpoint's weights into a backbone, in place; names and shapes must be exactly the network's.

    Args:
        backbone: backbone of any registered kind.
        path: a checkpoint of this package or a released MUSE file.
        trust_pickle: also unpickle objects other than tensors and plain values, which can run any code.

    Returns:
        The contents of the file.

    Raises:
        CheckpointError: the file cannot be read, or holds something else.
    """
    checkpoint = read_weights(path, trust_pickle)
    load_backbone_weights(backbone, checkpoint, path)
    return checkpoint


@dataclass(frozen=True)
class Seen:
    """Training data of the weights that a run starts from, as far as their checkpoints list it.

    Attributes:
        images: names of pictures and slides.
        patients: patients of these images, and of the validations that chose weights.
        learnt_patients: patients of these images alone.
    """

    images: frozenset[str] = frozenset()
    patients: frozenset[str] = frozenset()
    learnt_patients: frozenset[str] = frozenset()


def seen_before(paths: Sequence[Path], trust_pickle: bool = False) -> Seen:
    """Training data of the checkpoints that a run starts from and of its teachers.

    Raises:
        CheckpointError: one cannot be read.
    """
    checkpoints = [read_weights(path, trust_pickle) for path in paths]
    names = [field.name for field in fields(Seen)]
    return Seen(**{name: frozenset().union(*(getattr(each, name) for each in checkpoints)) for name in names})
