"""Find the nuclei of one shard of a slide with an ONNX model.

Reads the store that `muse tile` wrote, in fixed windows; writes a shard for `muse stitch`. The result does not depend
on the number of shards or threads.
"""

import argparse
from pathlib import Path

from muse_pipeline.cli.arguments import (
    add_output_argument,
    add_provider_argument,
    add_shard_argument,
    add_threads_argument,
)
from muse_pipeline.cli.output import add_ledger_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``muse detect``."""
    parser.add_argument("store", type=Path, help="image store at the model's mpp")
    parser.add_argument("--model", default="compact", help="built-in name or path of an .onnx file with a card")
    parser.add_argument(
        "--colour", type=Path, required=True, metavar="JSON", help="stain statistics from `muse tissue`"
    )
    add_shard_argument(parser)
    add_threads_argument(parser, "windows run at the same time")
    add_provider_argument(parser)
    add_output_argument(parser, "PARQUET")
    add_ledger_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Detect one shard."""
    from muse_pipeline.cli.output import say_how_busy, show_progress
    from muse_pipeline.inference.appearance import judge_appearance
    from muse_pipeline.inference.colour_input import colour_of_fit, read_colour
    from muse_pipeline.inference.detect import detect_shard
    from muse_pipeline.inference.model import choose_provider, find_model, name_model, precision_warnings
    from muse_pipeline.inference.predictor import Predictor
    from muse_pipeline.store.grid import Shard
    from muse_pipeline.store.store import open_store

    shard = Shard.parse(args.shard)
    provider = choose_provider(args.provider)
    predictor = Predictor(find_model(args.model, provider), provider)
    args.warnings += precision_warnings(predictor.card, provider)
    store = open_store(args.store)
    stained = read_colour(args.colour, store.fingerprint)
    colour = colour_of_fit(predictor.card.colour, stained.macenko)
    appearance = judge_appearance(predictor.card.appearance, stained)
    args.warnings += appearance.sentences()
    print(f"model: {name_model(predictor.path)} ({predictor.card.precision}), provider {provider}")
    with say_how_busy("finding nuclei", args.threads), show_progress("windows") as progress:
        detect_shard(
            store,
            predictor,
            colour,
            shard,
            args.output,
            threads=args.threads,
            progress=progress,
            appearance=appearance,
        )
