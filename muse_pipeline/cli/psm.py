"""Train a nucleus detector on tissue without labels, as a config describes (PSM).

Stages, each in its own folder under the run folder: activation (where the config asks for it), masks, mask_network,
labels, detector, self_training. What is made stays; a run that was stopped goes on when the same command is given
again. At the end <name>.onnx lies in the run folder, ready for `muse detect` and for QuPath. See docs/psm.md.
"""

import argparse
import sys
from pathlib import Path

from muse_pipeline.cli.arguments import add_compute_arguments, add_config_arguments, add_output_argument, share_of_cores
from muse_pipeline.training.psm.stage import STAGES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``muse psm``."""
    parser.add_argument("config", type=Path, help="YAML, see config/train/psm.yaml")
    add_output_argument(parser, "FOLDER", "folder of the run")
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1], help="last stage to make (default: %(default)s)")
    add_compute_arguments(parser)
    parser.add_argument(
        "--start-over",
        action="store_true",
        help="make stages again that were made from other settings or tissue, in place of refusing",
    )
    add_config_arguments(parser, "masks=activation")


def run(args: argparse.Namespace) -> None:
    """Make the stages, then export."""
    from muse_pipeline.cli.output import show_steps
    from muse_pipeline.export.onnx import export_onnx
    from muse_pipeline.training.psm.config import load_psm_config
    from muse_pipeline.training.psm.run import PsmRun
    from muse_pipeline.training.running import Running

    def say(sentence: str) -> None:
        print(sentence, file=sys.stderr)

    config = load_psm_config(args.config, args.data, args.set)
    threads = share_of_cores(args.threads)
    running = Running(accelerator=args.accelerator, threads=threads, start_over=args.start_over, say=say)
    left = PsmRun(config, args.output, running, show_steps).run(args.until)
    if args.until == STAGES[-1]:
        model = args.output / f"{config.name}.onnx"
        export_onnx(left, model)
        left = model
    print(left)
