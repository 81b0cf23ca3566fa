"""Join the shards of a slide into one table of nuclei.

Resolves the seams between windows, keeps nuclei in tissue (and in the ROI, if there is one), and computes and measures
their outlines. --regions adds every nucleus's tissue region and its distance to the border; --features adds
measurements of its shape, stains, texture and neighbours.
"""

import argparse
from pathlib import Path

from muse_pipeline.cli.arguments import add_ledger_argument, add_output_argument, add_threads_argument
from muse_pipeline.core.types import FEATURE_SETS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shards", type=Path, nargs="+", metavar="SHARD", help="all shards of the slide")
    parser.add_argument("--info", type=Path, required=True, metavar="JSON", help="slide.json from `muse inspect`")
    parser.add_argument("--tissue", type=Path, required=True, metavar="NPZ", help="tissue.npz from `muse tissue`")
    parser.add_argument(
        "--regions",
        type=Path,
        metavar="PATH",
        help="folder written by `muse regions`, or a GeoJSON of areas with classes: adds the region of every nucleus",
    )
    parser.add_argument("--features", choices=FEATURE_SETS, default="none", help="see `muse run`; needs --store")
    parser.add_argument("--store", type=Path, metavar="STORE", help="image store in which the nuclei were found")
    parser.add_argument(
        "--artefacts",
        type=Path,
        metavar="GEOJSON",
        help="find artefacts, write them to this file, and flag nuclei in them; needs --store",
    )
    parser.add_argument("--colour", type=Path, metavar="JSON", help="stains from `muse tissue`; needed with --store")
    add_threads_argument(parser)
    add_output_argument(parser, "PARQUET")
    parser.add_argument("--csv", type=Path, metavar="CSV.GZ", help="also write the table as CSV")
    add_ledger_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Stitch one slide."""
    from muse_pipeline.core.errors import ConfigError
    from muse_pipeline.nuclei.parquet import write_csv
    from muse_pipeline.steps import Pixels, stitch

    pixels = None
    if args.features != "none" or args.artefacts:
        if not (args.store and args.colour):
            raise ConfigError("--features and --artefacts need pixels; give --store and --colour too")
        pixels = Pixels(args.store, args.colour, args.features, args.artefacts)
    args.warnings += stitch(args.shards, args.info, args.tissue, args.output, args.threads, args.regions, pixels)
    if args.output.suffix == ".parquet":  # remove the CSV of an earlier table
        args.output.with_suffix(".csv.gz").unlink(missing_ok=True)
    if args.csv:
        write_csv(args.output, args.csv)
