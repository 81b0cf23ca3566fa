"""Turn the points of a training config into instances, and write a config that trains on them.

Every point gets exactly one instance: its part of a foreground (`--mask`), else of a watershed on haematoxylin, else a
small disc; the number of each is printed. Sources other than points on pictures are unchanged.

    muse outline config/train/compact.yaml --data DATA -o outlined
    muse finetune outlined/config.yaml -o runs/outlined
"""

import argparse
from pathlib import Path

from muse_pipeline.cli.arguments import add_output_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``muse outline``."""
    parser.add_argument("config", type=Path, help="training config (YAML) whose sources are points on pictures")
    add_output_argument(parser, "FOLDER", "folder of the result")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="what the config's paths are relative to")
    parser.add_argument(
        "--mask",
        default="watershed",
        help="foreground that points share: otsu, a built-in model (label_free) or an .onnx file; watershed needs none "
        "and was measured to be no worse (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    """Outline every source of points."""
    from muse_pipeline.methods.detector.outlined import outline_config

    print(outline_config(args.config, args.output, args.mask, args.data, print))
