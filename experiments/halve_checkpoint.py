"""Write a checkpoint's weights in half precision, as the built-in `large.pt` has them.

    python experiments/halve_checkpoint.py runs/large/checkpoint.pt muse_pipeline/inference/built_in/large.pt

What loads it converts them to 32 bits.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from muse_pipeline.training.checkpoint import load_checkpoint, save_checkpoint


def main() -> None:
    """Read, halve and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    checkpoint = load_checkpoint(args.checkpoint)
    halved = replace(checkpoint, backbone=halve(checkpoint.backbone), head=halve(checkpoint.head))
    save_checkpoint(args.output, halved)


def halve(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights with 32-bit floats as 16-bit floats."""
    return {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}


if __name__ == "__main__":
    main()
