"""Find the nuclei of one shard of a slide with an ONNX model.

Reads the store that `muse tile` wrote, in fixed windows, and writes a shard for `muse stitch`. The result does not
depend on the number of shards or threads.
"""

import argparse
from pathlib import Path

from muse_pipeline.cli.arguments import (
    add_ledger_argument,
    add_output_argument,
    add_provider_argument,
    add_shard_argument,
    add_stain_argument,
    add_threads_argument,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", type=Path, help="image store at the model's mpp")
    parser.add_argument("--model", default="compact", help="built-in name or path of an .onnx file with a card")
    parser.add_argument(
        "--colour", type=Path, required=True, metavar="JSON", help="stain statistics from `muse tissue`"
    )
    add_stain_argument(parser)
    add_shard_argument(parser)
    add_threads_argument(parser, "windows run at the same time")
    add_provider_argument(parser)
    add_output_argument(parser, "PARQUET")
    add_ledger_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Detect one shard."""
    from muse_pipeline.inference.model import choose_provider, find_model
    from muse_pipeline.inference.predictor import Predictor
    from muse_pipeline.steps import detect

    provider = choose_provider(args.provider)
    predictor = Predictor(find_model(args.model, provider), provider)
    args.warnings += detect(args.store, predictor, args.colour, args.shard, args.output, args.threads, args.stain)
