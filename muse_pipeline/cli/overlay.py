"""Draw a finished slide: its density, three fields with outlines, its viewer, and a summary for the
report.

`muse report` also draws missing pictures, but this separate step can run for many slides at the
same time.
"""

import argparse

from muse_pipeline.cli.arguments import Parser, read_settings
from muse_pipeline.core.setting import Setting
from muse_pipeline.outputs.base import list_outputs


def drawing_settings() -> list[Setting]:
    """The settings of the outputs that this step writes."""
    return [
        setting
        for output in list_outputs()
        if output.step == "overlay"
        for setting in output.all_settings()
    ]


def add_arguments(parser: Parser) -> None:
    parser.add_path("folder", "FOLDER", "results of one slide: RESULTS/<slide_id>")
    parser.add_settings(drawing_settings())
    parser.add_ledger()


def run(args: argparse.Namespace) -> None:
    from muse_pipeline.cohort.layout import SlideFiles
    from muse_pipeline.core.process import return_large_arrays
    from muse_pipeline.outputs.base import FinishedSlide
    from muse_pipeline.settings import RunSettings

    return_large_arrays()
    settings = RunSettings(read_settings(args, drawing_settings()))
    slide = FinishedSlide(SlideFiles(args.folder), settings)
    for output in list_outputs(settings):
        if output.step == "overlay":
            args.warnings += output.write(slide) or ()
