"""Join a slide's shards and write outputs from its nuclei: `stitch`, `geojson`, `overlay` and
others in one process.

This is the job `nuclei` of the workflow.
"""

import argparse

from muse_pipeline.cli.arguments import Parser, read_settings
from muse_pipeline.settings import list_settings


def add_arguments(parser: Parser) -> None:
    parser.add_path("shards", "SHARD", "all shards of the slide", nargs="+")
    parser.add_path("--regions", "PATH", "see `muse stitch`")
    parser.add_settings(list_settings("nuclei").values())
    parser.add_threads()
    parser.add_output("FOLDER", "results of the slide: RESULTS/<slide_id>")


def run(args: argparse.Namespace) -> None:
    from muse_pipeline.cohort.layout import SlideFiles
    from muse_pipeline.outputs.base import FinishedSlide
    from muse_pipeline.pipeline import make_nuclei
    from muse_pipeline.settings import RunSettings

    settings = RunSettings(read_settings(args, list_settings("nuclei").values()), args.threads)
    slide = FinishedSlide(SlideFiles(args.output), settings, threads=args.threads)
    make_nuclei(args.shards, slide, args.regions)
