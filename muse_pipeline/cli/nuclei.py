"""Join a slide's shards, write GeoJSON and draw pictures: `stitch`, `geojson` and `overlay` in one process.

The job `nuclei` of the workflow.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from muse_pipeline.cli.arguments import (
    add_features_arguments,
    add_frame_argument,
    add_output_argument,
    add_quality_arguments,
    add_threads_argument,
    at_least_one,
    read_quality,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``muse nuclei``."""
    parser.add_argument("shards", type=Path, nargs="+", metavar="SHARD", help="all shards of the slide")
    parser.add_argument("--csv", action="store_true", help="also write the table as CSV")
    add_frame_argument(parser)
    text = "also write parts of at most N nuclei, to be dropped onto QuPath one at a time"
    parser.add_argument("--max-features", type=at_least_one, metavar="N", help=text)
    parser.add_argument("--no-pictures", action="store_true", help="leave `overlay` out")
    parser.add_argument("--no-viewer", action="store_true", help="see `muse overlay`")
    parser.add_argument("--regions", type=Path, metavar="PATH", help="see `muse stitch`")
    add_features_arguments(parser)
    add_quality_arguments(parser)
    parser.add_argument("--measurements", nargs="*", default=[], metavar="COLUMN", help="see `muse geojson`")
    add_threads_argument(parser)
    add_output_argument(parser, "FOLDER", "results of the slide: RESULTS/<slide_id>")


def run(args: argparse.Namespace) -> None:
    """Run the three steps."""
    from muse_pipeline.cohort.layout import SlideFiles
    from muse_pipeline.pipeline import make_nuclei

    make_nuclei(
        args.shards,
        SlideFiles(args.output),
        csv=args.csv,
        frame=args.frame,
        max_features=args.max_features,
        draw=not args.no_pictures,
        viewer=not args.no_viewer,
        measurements=args.measurements,
        regions=args.regions,
        features=args.features,
        quality=read_quality(args),
        store=args.store,
        threads=args.threads,
    )
