"""Propose the nuclei of one shard of a slide without any label.

Reads the store that `muse tile` wrote and writes a shard for `muse stitch`, as `muse detect` does.
The slide's parameters are estimated from a fixed sample, so the result does not depend on the
number of shards or threads.
"""

import argparse
from pathlib import Path

from muse_pipeline.cli.arguments import Parser


def add_arguments(parser: Parser) -> None:
    parser.add_argument("store", type=Path, help="image store")
    parser.add_argument("--method", default="haematoxylin", help="name of a proposer")
    parser.add_argument(
        "--settings", default="{}", metavar="YAML", help="settings, such as '{min_distance_um: 4}'"
    )
    parser.add_path("--colour", "JSON", "stain statistics from `muse tissue`", required=True)
    parser.add_path("--info", "JSON", "slide.json from `muse inspect`", required=True)
    parser.add_shard()
    parser.add_threads("windows run at the same time")
    parser.add_output("PARQUET")
    parser.add_ledger()


def run(args: argparse.Namespace) -> None:
    import cv2

    from muse_pipeline.core.config import parse_yaml
    from muse_pipeline.core.process import show_progress
    from muse_pipeline.inference.stains import read_colour
    from muse_pipeline.proposals.base import fit_proposer, propose_shard
    from muse_pipeline.slides.inspect import read_info
    from muse_pipeline.store.grid import Shard
    from muse_pipeline.store.store import open_store

    cv2.setNumThreads(1)  # windows run in parallel instead
    shard, store, info = Shard.parse(args.shard), open_store(args.store), read_info(args.info)
    settings = parse_yaml(args.settings, "--settings")
    colour = read_colour(args.colour, store.fingerprint)
    with show_progress("windows") as progress:
        fitted = fit_proposer(store, args.method, settings, colour, info)
        args.warnings += propose_shard(
            store, *fitted, shard, args.output, threads=args.threads, progress=progress
        )
