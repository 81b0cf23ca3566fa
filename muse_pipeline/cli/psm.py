"""Train a nucleus detector on tissue without labels, as a config describes (PSM), and export it.

Like `muse train` with `method: psm`. Each stage has a folder of its own under stages/; finished stages are kept, and
the same command continues a run that was stopped. At the end <name>.onnx is in the run folder. See
docs/guide/label-free.md.
"""

import argparse

from muse_pipeline.cli import train


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``muse psm``."""
    train.add_arguments(parser, "detector.schedule.steps=100")


def run(args: argparse.Namespace) -> None:
    """Train; the method of a config that names none is PSM."""
    train.run(args, default="psm")
