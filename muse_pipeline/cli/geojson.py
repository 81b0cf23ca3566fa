"""Write a slide's nuclei as GeoJSON for QuPath, and their provenance as JSON next to it."""

import argparse

from muse_pipeline.cli.arguments import Parser, read_settings
from muse_pipeline.outputs.geojson import GeoJson

SETTINGS = GeoJson.settings


def add_arguments(parser: Parser) -> None:
    parser.add_path("nuclei", "NUCLEI", "table of nuclei (nuclei.parquet)")
    parser.add_path("--info", "JSON", "slide.json of the same slide", required=True)
    parser.add_settings(SETTINGS)
    parser.add_threads()
    parser.add_output("FILE", "GeoJSON of the nuclei (nuclei.geojson.gz)")
    parser.add_ledger()


def run(args: argparse.Namespace) -> None:
    from muse_pipeline.qupath.write import write_geojson
    from muse_pipeline.slides.inspect import read_info

    settings = read_settings(args, SETTINGS)
    write_geojson(args.nuclei, read_info(args.info), args.output, threads=args.threads, **settings)
