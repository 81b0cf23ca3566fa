"""Checkpoints of ours, in the layout of MUSE's authors, whose own loader takes our backbones.

``teacher`` is a flat state dict with keys ``module.backbone.*``; ``head`` is the nucleus head's; ``meta`` is JSON.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from muse_pipeline.errors import CheckpointError
from muse_pipeline.files import complete_file
from muse_pipeline.models.detector import NucleusDetector
from muse_pipeline.models.official import PREFIX, backbone_weights, load_weights, read_pickle

FORMAT = "muse_pipeline 2"


@dataclass(frozen=True)
class Checkpoint:
    """What a file of ours holds.

    Attributes:
        backbone: state dict.
        head: state dict; empty for a backbone alone.
        meta: kind, settings (paths are names), colour reference, images, and what the backbone reads.
    """

    backbone: dict[str, Tensor]
    head: dict[str, Tensor]
    meta: dict[str, Any]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write it, complete or not at all."""
    state = {
        "format": FORMAT,
        "teacher": {PREFIX + name: value.cpu() for name, value in checkpoint.backbone.items()},
        "head": {name: value.cpu() for name, value in checkpoint.head.items()},
        "meta": json.dumps(checkpoint.meta, sort_keys=True),
    }
    with complete_file(path) as partial:
        torch.save(state, partial)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a file of ours; nothing but tensors and plain values is unpickled.

    Raises:
        CheckpointError: the file is missing, damaged, foreign or of an older version.
    """
    state = read_pickle(path)
    if state.get("format") == "muse_pipeline 1":
        raise CheckpointError(f"{path}: written by version 0.1, which this version does not read; train it again")
    if state.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint of ours; give one that `muse finetune` wrote")
    return Checkpoint(backbone_weights(state, path), state["head"], json.loads(state["meta"]))


def load_detector_weights(network: NucleusDetector, checkpoint: Checkpoint, path: Path) -> None:
    """Take over backbone and head; ``path`` is for messages.

    Raises:
        CheckpointError: either is of another network or shape.
    """
    load_weights(network.backbone, checkpoint.backbone, path, always_resample=False)
    try:
        network.head.load_state_dict(checkpoint.head)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: does not fit the config's head, classes and rays; change either") from error
