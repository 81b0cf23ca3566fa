"""The weights that a fine-tuning run begins with."""

from __future__ import annotations

from pathlib import Path

from muse_pipeline.inference.predictor import BUILT_IN
from muse_pipeline.models.detector import NucleusDetector
from muse_pipeline.training.checkpoint import load_head_weights
from muse_pipeline.training.finetune_config import FinetuneConfig
from muse_pipeline.training.initial import load_backbone


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
