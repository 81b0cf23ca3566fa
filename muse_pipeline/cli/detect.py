"""Find the nuclei of one shard of a slide with an ONNX model.

Reads the store that `muse tile` wrote, in fixed windows, and writes a shard for `muse stitch`. The
result does not depend on the number of shards or threads.
"""

import argparse
from pathlib import Path

from muse_pipeline.cli.arguments import Parser


def add_arguments(parser: Parser) -> None:
    parser.add_argument("store", type=Path, help="image store at the model's mpp")
    parser.add_argument(
        "--model", default="compact", help="built-in name or path of an .onnx file with a card"
    )
    parser.add_path("--colour", "JSON", "stain statistics from `muse tissue`", required=True)
    parser.add_stain()
    parser.add_shard()
    parser.add_threads("windows run at the same time")
    parser.add_provider()
    parser.add_output("PARQUET")
    parser.add_ledger()


def run(args: argparse.Namespace) -> None:
    from muse_pipeline.inference.model import choose_provider, find_model
    from muse_pipeline.inference.predictor import Predictor
    from muse_pipeline.steps import detect

    provider = choose_provider(args.provider)
    predictor = Predictor(find_model(args.model, provider), provider)
    args.warnings += detect(
        args.store, predictor, args.colour, args.shard, args.output, args.threads, args.stain
    )
