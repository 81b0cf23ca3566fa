"""Join the shards of a slide into one table of nuclei.

Resolves the seams between windows, keeps nuclei in tissue (and in the ROI, if there is one), and
computes and measures their outlines. --regions adds every nucleus's tissue region and its distance
to the border; --features adds measurements of its shape, stains, texture and neighbours.
"""

import argparse

from muse_pipeline.cli.arguments import Parser
from muse_pipeline.core.types import FEATURE_SETS


def add_arguments(parser: Parser) -> None:
    parser.add_path("shards", "SHARD", "all shards of the slide", nargs="+")
    parser.add_path("--info", "JSON", "slide.json from `muse inspect`", required=True)
    parser.add_path("--tissue", "NPZ", "tissue.npz from `muse tissue`", required=True)
    parser.add_path(
        "--regions",
        "PATH",
        "folder written by `muse regions`, or a GeoJSON of areas with classes: adds the region of"
        " every nucleus",
    )
    parser.add_argument(
        "--features", choices=FEATURE_SETS, default="none", help="see `muse run`; needs --store"
    )
    parser.add_path("--store", "STORE", "image store in which the nuclei were found")
    parser.add_path(
        "--artefacts",
        "GEOJSON",
        "find artefacts, write them here, and flag nuclei in them; needs --store",
    )
    parser.add_path("--colour", "JSON", "stains from `muse tissue`; needed with --store")
    parser.add_threads()
    parser.add_output("PARQUET")
    parser.add_path("--csv", "CSV.GZ", "also write the table as CSV")
    parser.add_ledger()


def run(args: argparse.Namespace) -> None:
    from muse_pipeline.core.errors import ConfigError
    from muse_pipeline.nuclei.parquet import write_csv
    from muse_pipeline.steps import Pixels, stitch

    pixels = None
    if args.features != "none" or args.artefacts:
        if not (args.store and args.colour):
            raise ConfigError(
                "--features and --artefacts need pixels; give --store and --colour too"
            )
        pixels = Pixels(args.store, args.colour, args.features, args.artefacts)
    args.warnings += stitch(
        args.shards, args.info, args.tissue, args.output, args.threads, args.regions, pixels
    )
    if args.output.suffix == ".parquet":  # remove the CSV of an earlier table
        args.output.with_suffix(".csv.gz").unlink(missing_ok=True)
    if args.csv:
        write_csv(args.output, args.csv)
