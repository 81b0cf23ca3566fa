"""Join a slide's shards and write outputs from its nuclei: `stitch`, `geojson`, `overlay` and others in one process.

This is the job `nuclei` of the workflow.
"""

import argparse
from pathlib import Path

from muse_pipeline.cli.arguments import add_output_argument, add_setting_arguments, add_threads_argument, read_settings
from muse_pipeline.settings import list_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shards", type=Path, nargs="+", metavar="SHARD", help="all shards of the slide")
    parser.add_argument("--regions", type=Path, metavar="PATH", help="see `muse stitch`")
    add_setting_arguments(parser, list_settings("nuclei").values())
    add_threads_argument(parser)
    add_output_argument(parser, "FOLDER", "results of the slide: RESULTS/<slide_id>")


def run(args: argparse.Namespace) -> None:
    """Run the steps."""
    from muse_pipeline.cohort.layout import SlideFiles
    from muse_pipeline.outputs.base import FinishedSlide
    from muse_pipeline.pipeline import make_nuclei
    from muse_pipeline.settings import RunSettings

    settings = RunSettings(read_settings(args, list_settings("nuclei").values()), args.threads)
    slide = FinishedSlide(SlideFiles(args.output), settings, threads=args.threads)
    make_nuclei(args.shards, slide, args.regions)
