"""Draw a finished slide: its density, three fields with outlines, its viewer, and a summary for the report.

`muse report` draws missing pictures; as a step of its own this runs for many slides at once, and before their image
stores are removed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from muse_pipeline.cli.arguments import add_setting_arguments
from muse_pipeline.cli.output import add_ledger_argument
from muse_pipeline.outputs.viewer import Viewer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``muse overlay``."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="results of one slide: RESULTS/<slide_id>")
    add_setting_arguments(parser, Viewer.all_settings())
    add_ledger_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Draw the pictures, write the summary."""
    from muse_pipeline.report.slide_summary import summarise_slide
    from muse_pipeline.viewer.page import write_viewer

    if args.viewer:
        write_viewer(args.folder)
    summarise_slide(args.folder)
