"""Write a slide's nuclei as GeoJSON for QuPath, and their provenance as JSON next to it."""

import argparse
from pathlib import Path

from muse_pipeline.cli.arguments import (
    add_ledger_argument,
    add_output_argument,
    add_setting_arguments,
    add_threads_argument,
    read_settings,
)
from muse_pipeline.outputs.geojson import GeoJson

SETTINGS = GeoJson.settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("nuclei", type=Path, metavar="NUCLEI", help="table of nuclei (nuclei.parquet)")
    parser.add_argument("--info", type=Path, required=True, metavar="JSON", help="slide.json of the same slide")
    add_setting_arguments(parser, SETTINGS)
    add_threads_argument(parser)
    add_output_argument(parser, "FILE", "GeoJSON of the nuclei (nuclei.geojson.gz)")
    add_ledger_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Write the files."""
    from muse_pipeline.qupath.write import write_geojson
    from muse_pipeline.slides.inspect import read_info

    settings = read_settings(args, SETTINGS)
    write_geojson(args.nuclei, read_info(args.info), args.output, threads=args.threads, **settings)
