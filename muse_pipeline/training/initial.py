"""Where a backbone's weights come from: a checkpoint of ours or one of the MUSE authors."""

from __future__ import annotations

from pathlib import Path

from muse_pipeline.models.base import Backbone
from muse_pipeline.models.official import backbone_weights, load_weights, read_pickle
from muse_pipeline.training.checkpoint import Checkpoint, is_ours, parse_checkpoint


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
    load_weights(backbone, weights, path, always_resample=ours is None)
    return ours
