"""Where a backbone's weights come from: a checkpoint of ours or one of the MUSE authors."""

from __future__ import annotations

from pathlib import Path

from muse_pipeline.models.base import Backbone
from muse_pipeline.models.official import backbone_weights, load_weights, read_pickle


def load_backbone(backbone: Backbone, path: Path, trust_pickle: bool = False) -> None:
    """Put a checkpoint's weights into a backbone, in place; names and shapes must be exactly the network's.

    Args:
        backbone: of any registered kind.
        path: a checkpoint of ours or a released MUSE file.
        trust_pickle: also unpickle what is no tensor and no plain value, which can run any code.

    Raises:
        CheckpointError: the file cannot be read, or holds something else.
    """
    state = read_pickle(path, trust_pickle)
    is_ours = "format" in state
    load_weights(backbone, backbone_weights(state, path), path, always_resample=not is_ours)
