"""Import a released MUSE checkpoint as a backbone to fine-tune.

The backbone is identified by the names and shapes of its tensors, and its training window (224 or
512) by the end of the file's name or by its table of positions.
"""

from __future__ import annotations

from pathlib import Path

from muse_pipeline.core.types import Written


def run(
    checkpoint: Path, output: Written, backbone: str | None = None, trust_pickle: bool = False
) -> None:
    """Import the checkpoint.

    Args:
        checkpoint: released file, such as vit_s_16-224.pth
        output: checkpoint.pt to write
        backbone: name of the backbone, if the file does not identify it
        trust_pickle: read a file that contains more than tensors and can run any code; only for
            files that you trust
    """
    from muse_pipeline.training.checkpoint import import_checkpoint

    print(f"{output}: {import_checkpoint(checkpoint, output, backbone, trust_pickle)}")
