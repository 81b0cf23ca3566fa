"""Train a nucleus detector on labelled images, as a config describes.

Like `muse train` with `method: detector`. Writes into the run folder: checkpoint.pt, the resolved config.yaml,
provenance.json, metrics.jsonl and curves.png. The same command continues a run that was stopped.
"""

import argparse

from muse_pipeline.cli import train

add_arguments = train.add_arguments


def run(args: argparse.Namespace) -> None:
    """Train one detector."""
    train.run(args, default="detector")
