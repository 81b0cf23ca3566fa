"""Find a slide's tissue, its outline for QuPath and its stains.

A slide without tissue does not fail: its mask is empty, and a warning is printed.
"""

import argparse
from pathlib import Path

from muse_pipeline.cli.arguments import add_ledger_argument

WRITES = frozenset({"mask", "picture", "outline", "colour", "ledger"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("slide", type=Path, metavar="SLIDE")
    parser.add_argument("--info", type=Path, required=True, metavar="JSON", help="slide.json from `muse inspect`")
    parser.add_argument("--roi", type=Path, metavar="GEOJSON", help="analyse only these areas, drawn in QuPath")
    parser.add_argument("--mask", type=Path, required=True, metavar="NPZ", help="tissue.npz, read by later steps")
    parser.add_argument("--picture", type=Path, required=True, metavar="PNG", help="picture of the outline")
    parser.add_argument("--outline", type=Path, required=True, metavar="GEOJSON", help="outline for QuPath (GeoJSON)")
    parser.add_argument("--colour", type=Path, required=True, metavar="JSON", help="stain statistics (JSON)")
    parser.add_argument("--third-stain", action="store_true", help="also find a stain other than haematoxylin and DAB")
    add_ledger_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Find the tissue, measure the stains, and write the files."""
    from muse_pipeline.steps import tissue

    outputs = args.mask, args.picture, args.outline, args.colour
    tissue(args.slide, args.info, args.roi, *outputs, args.third_stain)
