"""Write a slide's nuclei as GeoJSON for QuPath, with a sidecar about their provenance."""

from __future__ import annotations

import argparse
from pathlib import Path

from muse_pipeline.cli.arguments import add_frame_argument, add_output_argument, add_threads_argument, at_least_one
from muse_pipeline.cli.output import add_ledger_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``muse geojson``."""
    parser.add_argument("nuclei", type=Path, metavar="NUCLEI", help="table of nuclei (nuclei.parquet)")
    parser.add_argument("--info", type=Path, required=True, metavar="JSON", help="slide.json of the same slide")
    add_frame_argument(parser)
    text = "also write parts of at most N nuclei, to be dropped onto QuPath one at a time"
    parser.add_argument("--max-features", type=at_least_one, metavar="N", help=text)
    parser.add_argument(
        "--measurements", nargs="*", default=[], metavar="COLUMN", help="further columns of the table, as h_mean"
    )
    add_threads_argument(parser)
    add_output_argument(parser, "FILE", "GeoJSON of the nuclei (nuclei.geojson.gz)")
    add_ledger_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Write the files."""
    from muse_pipeline.steps import geojson

    geojson(args.nuclei, args.info, args.output, args.frame, args.max_features, args.threads, args.measurements)
