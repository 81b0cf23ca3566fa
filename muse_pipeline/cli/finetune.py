"""Train a nucleus detector on labelled images, as a config describes.

Writes into the run folder: checkpoint.pt, the resolved config.yaml, provenance.json, metrics.jsonl and curves.png. A
run that was stopped goes on from its last resume point when the same command is given again.
"""

import argparse
from pathlib import Path

from muse_pipeline.cli.arguments import (
    add_compute_arguments,
    add_config_arguments,
    add_output_argument,
    at_least_one,
    share_of_cores,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``muse finetune``."""
    parser.add_argument("config", type=Path, help="YAML, see config/train/compact.yaml")
    add_output_argument(parser, "FOLDER", "folder of the run")
    add_compute_arguments(parser)
    parser.add_argument(
        "--devices", type=at_least_one, default=1, help="GPUs, or processes on a CPU (default: %(default)s)"
    )
    parser.add_argument(
        "--start-over",
        action="store_true",
        help="where the folder holds a run of other settings, labels or weights, give that up in place of refusing",
    )
    add_config_arguments(parser, "schedule.steps=100")


def run(args: argparse.Namespace) -> None:
    """Train one detector."""
    from muse_pipeline.cli.output import show_steps
    from muse_pipeline.training.finetune import finetune
    from muse_pipeline.training.finetune_config import load_finetune_config
    from muse_pipeline.training.running import Running

    config = load_finetune_config(args.config, args.data, args.set)
    with show_steps(config.schedule.steps) as (say, progress):
        running = Running(
            accelerator=args.accelerator,
            threads=share_of_cores(args.threads, args.devices),
            devices=args.devices,
            start_over=args.start_over,
            say=say,
            progress=progress,
        )
        finetune(config, args.output, running)
