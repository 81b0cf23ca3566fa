"""Import a released MUSE checkpoint as a backbone to fine-tune.

The backbone is identified by the names and shapes of its tensors, and its training window (224 or
512) by the end of the file's name or by its table of positions.
"""

import argparse
from pathlib import Path

from muse_pipeline.cli.arguments import Parser


def add_arguments(parser: Parser) -> None:
    parser.add_argument("checkpoint", type=Path, help="released file, such as vit_s_16-224.pth")
    parser.add_output("FILE", "checkpoint.pt to write")
    parser.add_argument(
        "--backbone", metavar="NAME", help="name of the backbone, if the file does not identify it"
    )
    parser.add_flag(
        "--trust-pickle",
        "read a file that contains more than tensors and can run any code; only for files that you"
        " trust",
    )


def run(args: argparse.Namespace) -> None:
    from muse_pipeline.training.checkpoint import import_checkpoint

    name = import_checkpoint(args.checkpoint, args.output, args.backbone, args.trust_pickle)
    print(f"{args.output}: {name}")
