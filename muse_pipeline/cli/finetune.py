"""Train a nucleus detector on labelled images, as a config describes.

Writes checkpoint.pt, the resolved config.json, metrics.jsonl and curves.png into the run folder. A run that was stopped
goes on from its last resume point when the same command is given again.
"""

import argparse
from pathlib import Path

from muse_pipeline.cli.arguments import at_least_one


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``muse finetune``."""
    parser.add_argument("config", type=Path, help="YAML, see config/train/compact.yaml")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="folder of the run")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="what the config's paths are relative to")
    parser.add_argument("--threads", type=at_least_one, default=1, help="processor threads (default: %(default)s)")
    parser.add_argument("--accelerator", default="auto", help="auto, cpu, cuda or mps (default: %(default)s)")


def run(args: argparse.Namespace) -> None:
    """Train one detector."""
    from muse_pipeline.cli.progress import show_progress
    from muse_pipeline.training.curves import draw_curves
    from muse_pipeline.training.finetune import finetune, load_finetune_config

    config = load_finetune_config(args.config, args.data)
    with show_progress("steps") as progress:
        finetune(
            config,
            args.output,
            args.accelerator,
            args.threads,
            lambda step, _: progress(step + 1, config.schedule.steps),
        )
    draw_curves(args.output / "metrics.jsonl", args.output / "curves.png")
