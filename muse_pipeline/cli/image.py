"""Read a slide's header, find its tissue and write its image: `inspect`, `tissue` and `tile` in one
process.

This is the job `image` of the workflow.
"""

import argparse
from pathlib import Path

from muse_pipeline.cli.arguments import Parser, positive, read_settings
from muse_pipeline.settings import list_settings

SETTINGS = [list_settings()[name] for name in ("max_corrupt", "third_stain")]


def add_arguments(parser: Parser) -> None:
    parser.add_argument("slide", type=Path, metavar="SLIDE")
    parser.add_argument("--slide-id", required=True, metavar="ID", help="name in the cohort")
    parser.add_number("--mpp", positive, "UM", "um per level-0 pixel, instead of the file's")
    parser.add_argument(
        "--source", metavar="URL", help="URL from which SLIDE must have been fetched"
    )
    parser.add_path("--roi", "GEOJSON", "analyse only these areas, drawn in QuPath")
    parser.add_number("--image-mpp", positive, "UM", "um per pixel of the image", default=0.5)
    parser.add_settings(SETTINGS)
    parser.add_threads()
    parser.add_output("FOLDER", "results of the slide: RESULTS/<slide_id>")


def run(args: argparse.Namespace) -> None:
    from muse_pipeline.cohort.layout import SlideFiles
    from muse_pipeline.cohort.sheet import SheetRow
    from muse_pipeline.pipeline import make_image
    from muse_pipeline.settings import RunSettings

    settings = RunSettings(read_settings(args, SETTINGS), args.threads)
    row = SheetRow(
        args.slide_id, args.source or str(args.slide), args.mpp, roi=args.roi and str(args.roi)
    )
    make_image(args.slide, row, SlideFiles(args.output), args.image_mpp, settings)
