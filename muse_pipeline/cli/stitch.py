"""Join the shards of a slide into one table of nuclei.

Resolves the seams between windows, keeps nuclei in tissue (and in the ROI, if there is one), draws the outlines and
measures them. With --regions every nucleus also has its tissue region and its distance to the border, with --features
measurements of its shape, stains, texture and neighbours.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from muse_pipeline.cli.arguments import add_features_arguments, add_output_argument, add_threads_argument
from muse_pipeline.cli.output import add_ledger_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``muse stitch``."""
    parser.add_argument("shards", type=Path, nargs="+", metavar="SHARD", help="all shards of the slide")
    parser.add_argument("--info", type=Path, required=True, metavar="JSON", help="slide.json of `muse inspect`")
    parser.add_argument("--tissue", type=Path, required=True, metavar="NPZ", help="mask of `muse tissue`")
    parser.add_argument(
        "--regions",
        type=Path,
        metavar="PATH",
        help="folder of `muse regions`, or a GeoJSON of areas with classes: adds the region of every nucleus",
    )
    add_features_arguments(parser)
    parser.add_argument(
        "--artefacts",
        type=Path,
        metavar="GEOJSON",
        help="find artefacts, write them here and flag their nuclei; needs --store and --colour",
    )
    parser.add_argument(
        "--colour", type=Path, metavar="JSON", help="stains, of `muse tissue`; needed by --features and --artefacts"
    )
    add_threads_argument(parser)
    add_output_argument(parser, "PARQUET")
    parser.add_argument("--csv", type=Path, metavar="CSV.GZ", help="also write the table as CSV")
    add_ledger_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Stitch one slide."""
    from muse_pipeline.core.errors import ConfigError
    from muse_pipeline.steps import stitch

    if args.features != "none" and not (args.store and args.colour):
        raise ConfigError(f"--features {args.features} is measured in pixels; give --store and --colour too")
    if args.artefacts and not (args.store and args.colour):
        raise ConfigError("--artefacts are found in pixels; give --store and --colour too")
    pixels = {"features": args.features, "store": args.store, "colour": args.colour, "artefacts": args.artefacts}
    results = args.info, args.tissue, args.output, args.csv, args.threads, args.regions
    args.warnings += stitch(args.shards, *results, **pixels)
