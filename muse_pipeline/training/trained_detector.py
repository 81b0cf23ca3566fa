"""A trained detector, as its checkpoint describes it."""

from __future__ import annotations

from pathlib import Path

from muse_pipeline.core.config import parse_config
from muse_pipeline.core.errors import CheckpointError, ConfigError
from muse_pipeline.models.detector import NucleusDetector
from muse_pipeline.training.checkpoint import Checkpoint, load_checkpoint, load_detector_weights
from muse_pipeline.training.finetune_config import FinetuneConfig


def load_trained(path: Path) -> tuple[NucleusDetector, FinetuneConfig, Checkpoint]:
    """The network in evaluation mode, the settings that it was trained with, and all that the file holds.

    Raises:
        CheckpointError: the file is missing or damaged, holds no detector, one of a network that this version does not
            have, or one that does not fit its own description.
        ConfigError: the settings in it cannot be read.
    """
    checkpoint = load_checkpoint(path)
    if not checkpoint.head:
        raise CheckpointError(f"{path}: holds no detector (kind: {checkpoint.meta.get('kind')}); finetune one first")
    config = parse_config(checkpoint.meta["config"], FinetuneConfig, str(path))
    try:
        network = NucleusDetector(config.backbone, config.head, len(config.classes), config.n_rays)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}; it was trained by another version") from error
    load_detector_weights(network, checkpoint, path)
    return network.eval(), config, checkpoint
