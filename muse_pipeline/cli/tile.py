"""Write a slide's tissue as a sparse OME-Zarr image at one mpp.

Glass is left out. Areas that cannot be decoded are white, and are listed in the store. The store
appears under its name when it is complete.
"""

import argparse
from pathlib import Path

from muse_pipeline.cli.arguments import Parser, fraction, positive


def add_arguments(parser: Parser) -> None:
    parser.add_argument("slide", type=Path, metavar="SLIDE")
    parser.add_path("--info", "JSON", "slide.json from `muse inspect`", required=True)
    parser.add_path("--tissue", "NPZ", "tissue.npz from `muse tissue`", required=True)
    parser.add_argument("--mpp", type=positive, default=0.5, help="um per pixel of the image")
    parser.add_threads()
    parser.add_number(
        "--max-corrupt",
        fraction,
        "F",
        "fraction of the tissue that may be undecodable",
        default=0.01,
    )
    parser.add_argument(
        "--codec",
        choices=("zstd", "jpeg"),
        default="zstd",
        help="zstd is lossless; jpeg is smaller, for pretraining only",
    )
    parser.add_output("ZARR", "store to write, such as image-500nm.zarr for 0.5 um/px")
    parser.add_ledger()


def run(args: argparse.Namespace) -> None:
    from muse_pipeline.steps import tile

    given = (
        args.slide,
        args.info,
        args.tissue,
        args.output,
        args.mpp,
        args.threads,
        args.max_corrupt,
        args.codec,
    )
    args.warnings += tile(*given)
