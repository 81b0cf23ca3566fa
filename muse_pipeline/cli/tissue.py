"""Find a slide's tissue, its outline for QuPath and its stains.

A slide without tissue does not fail: its mask is empty, and a warning is printed.
"""

import argparse
from pathlib import Path

from muse_pipeline.cli.arguments import Parser

WRITES = frozenset({"mask", "picture", "outline", "colour", "ledger"})


def add_arguments(parser: Parser) -> None:
    parser.add_argument("slide", type=Path, metavar="SLIDE")
    parser.add_path("--info", "JSON", "slide.json from `muse inspect`", required=True)
    parser.add_path("--roi", "GEOJSON", "analyse only these areas, drawn in QuPath")
    parser.add_path("--mask", "NPZ", "tissue.npz, read by later steps", required=True)
    parser.add_path("--picture", "PNG", "picture of the outline", required=True)
    parser.add_path("--outline", "GEOJSON", "outline for QuPath (GeoJSON)", required=True)
    parser.add_path("--colour", "JSON", "stain statistics (JSON)", required=True)
    parser.add_flag("--third-stain", "also find a stain other than haematoxylin and DAB")
    parser.add_ledger()


def run(args: argparse.Namespace) -> None:
    from muse_pipeline.steps import tissue

    outputs = args.mask, args.picture, args.outline, args.colour
    tissue(args.slide, args.info, args.roi, *outputs, args.third_stain)
