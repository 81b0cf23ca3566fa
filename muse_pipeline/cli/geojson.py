"""Write a slide's nuclei as GeoJSON for QuPath, with a sidecar that says where they came from."""

from __future__ import annotations

import argparse
from pathlib import Path

from muse_pipeline.cli.arguments import at_least_one
from muse_pipeline.cli.ledger import add_ledger_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``muse geojson``."""
    parser.add_argument("nuclei", type=Path, metavar="NUCLEI", help="nuclei.parquet")
    parser.add_argument("--info", type=Path, required=True, metavar="JSON", help="slide.json of the same slide")
    parser.add_argument(
        "--frame",
        choices=("qupath", "openslide"),
        default="qupath",
        help="count from the corner of the scanner's bounds, as QuPath does, or of level 0 (default: qupath)",
    )
    parser.add_argument("--max-features", type=at_least_one, metavar="N", help="also write parts of at most N nuclei")
    parser.add_argument("--threads", type=at_least_one, default=1, metavar="N")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="nuclei.geojson.gz")
    add_ledger_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Write the files."""
    from muse_pipeline.nuclei.geojson import write_geojson
    from muse_pipeline.slides.inspect import read_info

    write_geojson(
        args.nuclei,
        read_info(args.info),
        args.output,
        frame=args.frame,
        max_features=args.max_features,
        threads=args.threads,
    )
