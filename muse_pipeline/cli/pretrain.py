"""Pretrain a backbone on tissue without labels, as a config describes (MUSE).

Writes into the run folder: checkpoint.pt (a backbone, for `muse finetune` and `muse compare`), the resolved
config.yaml, provenance.json, metrics.jsonl, curves.png and views.png. A run that was stopped goes on from its last
resume point when the same command is given again; one that learns nothing is stopped. See docs/muse.md.
"""

import argparse
from pathlib import Path

from muse_pipeline.cli.arguments import (
    add_compute_arguments,
    add_config_arguments,
    add_output_argument,
    at_least_one,
    share_of_cores,
    zero_or_more,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``muse pretrain``."""
    parser.add_argument("config", type=Path, help="YAML, see config/train/muse_pretrain.yaml")
    add_output_argument(parser, "FOLDER", "folder of the run")
    add_compute_arguments(parser)
    parser.add_argument(
        "--loaders", type=zero_or_more, default=0, help="threads that read ahead of a GPU (default: %(default)s)"
    )
    parser.add_argument(
        "--devices", type=at_least_one, default=1, help="GPUs, or processes on a CPU (default: %(default)s)"
    )
    parser.add_argument(
        "--start-over",
        action="store_true",
        help="where the folder holds a run of other settings, tissue or weights, give that up in place of refusing",
    )
    add_config_arguments(parser, "schedule.steps=100")


def run(args: argparse.Namespace) -> None:
    """Pretrain one backbone."""
    from muse_pipeline.cli.output import show_steps
    from muse_pipeline.training.pretrain import pretrain
    from muse_pipeline.training.pretrain_config import load_pretrain_config
    from muse_pipeline.training.running import Running

    config = load_pretrain_config(args.config, args.data, args.set)
    with show_steps(config.schedule.steps) as (say, progress):
        running = Running(
            accelerator=args.accelerator,
            threads=share_of_cores(args.threads, args.devices),
            devices=args.devices,
            loaders=args.loaders,
            start_over=args.start_over,
            say=say,
            progress=progress,
        )
        pretrain(config, args.output, running)
