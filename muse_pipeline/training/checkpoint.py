"""Checkpoints: what leaves a run, and what a run needs to go on exactly where it stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from muse_pipeline.errors import CheckpointError
from muse_pipeline.files import complete_file

FORMAT = "muse_pipeline 1"


def save_checkpoint(path: Path, state: dict[str, Any], meta: dict[str, Any]) -> None:
    """Write tensors and a JSON description, complete or not at all."""
    with complete_file(path) as partial:
        torch.save({"format": FORMAT, "meta": json.dumps(meta, sort_keys=True), **state}, partial)


def load_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors and description of a checkpoint of ours; nothing but tensors and plain values is unpickled.

    Raises:
        CheckpointError: the file is missing, damaged or foreign.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint; give the path of a `checkpoint.pt`") from error
    except Exception as error:  # torch raises many unrelated classes on foreign bytes
        raise CheckpointError(f"{path}: not readable as a checkpoint; train or copy it again") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint of `muse finetune`; give one that it wrote")
    return state, json.loads(state.pop("meta"))
