"""Read a slide's header, find its tissue and write its image: `inspect`, `tissue` and `tile` in one process.

The job `image` of the workflow.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from muse_pipeline.cli.arguments import add_output_argument, add_threads_argument, fraction, positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``muse image``."""
    parser.add_argument("slide", type=Path, metavar="SLIDE")
    parser.add_argument("--slide-id", required=True, metavar="ID", help="its name in the cohort")
    parser.add_argument("--mpp", type=positive, metavar="UM", help="um per level-0 pixel; overrides that of the file")
    parser.add_argument("--source", metavar="URL", help="of a fetched SLIDE: make sure that it is this one")
    parser.add_argument("--roi", type=Path, metavar="GEOJSON", help="keep to these areas, drawn in QuPath")
    parser.add_argument("--image-mpp", type=positive, default=0.5, metavar="UM", help="um per pixel of the image")
    add_threads_argument(parser)
    parser.add_argument(
        "--max-corrupt", type=fraction, default=0.01, metavar="F", help="share of the tissue that may be undecodable"
    )
    add_output_argument(parser, "FOLDER", "results of the slide: RESULTS/<slide_id>")


def run(args: argparse.Namespace) -> None:
    """Run the three steps."""
    from muse_pipeline.cohort.layout import SlideFiles
    from muse_pipeline.pipeline import make_image

    make_image(
        args.slide,
        SlideFiles(args.output),
        args.slide_id,
        args.image_mpp,
        source=args.source,
        slide_mpp=args.mpp,
        roi=args.roi,
        threads=args.threads,
        max_corrupt=args.max_corrupt,
    )
