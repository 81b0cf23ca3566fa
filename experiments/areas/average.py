"""Average two checkpoints of a detector, to make the built-in model `compact`.

    python -m experiments.areas.average START TRAINED OUTPUT

TRAINED weighs three times as much as START, unless `--share` states its share. The appearance of
training slides is taken from START, because TRAINED was trained on pictures that are too small to
show what slides look like.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from muse_pipeline.methods.detector.mixing import mix_weights
from muse_pipeline.training.checkpoint import load_checkpoint, save_checkpoint


def average(start: Path, trained: Path, output: Path, share: float = 0.75) -> Path:
    """Write the average of two checkpoints."""
    first, second = load_checkpoint(start), load_checkpoint(trained)
    mixed = mix_weights(first, second, share)
    meta = {**mixed.meta, "appearance": first.meta["appearance"]}
    save_checkpoint(output, dataclasses.replace(mixed, meta=meta))
    return output


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("start", "trained", "output"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--share", type=float, default=0.75)
    print(average(**vars(parser.parse_args())))
