"""Train a nucleus detector on tissue without labels, as a config describes (PSM), and export it.

Like `muse train` with `method: psm`. Each stage has a folder of its own under stages/; finished stages stay, and the
same command continues a run that was stopped. At the end <name>.onnx is in the run folder. See
docs/guide/label-free.md.
"""

import argparse

from muse_pipeline.cli import train


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``muse psm``."""
    train.add_arguments(parser, "masks=activation")


def run(args: argparse.Namespace) -> None:
    """Finish the stages, then export."""
    from muse_pipeline.export.onnx import export_onnx
    from muse_pipeline.training.checkpoint import load_checkpoint
    from muse_pipeline.training.run import RunFolder

    train.run(args, default="psm")
    if args.until is None:
        checkpoint = RunFolder(args.output).checkpoint
        model = args.output / f"{load_checkpoint(checkpoint).meta['config']['name']}.onnx"
        export_onnx(checkpoint, model)
        print(model)
