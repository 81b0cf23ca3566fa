"""Draw a finished slide: its density, three fields with outlines, its viewer, and a summary for the report.

`muse report` draws missing pictures; as a step of its own this runs for many slides at once, and before their image
stores are removed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from muse_pipeline.cli.output import add_ledger_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``muse overlay``."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="results of one slide: RESULTS/<slide_id>")
    parser.add_argument(
        "--no-viewer", action="store_true", help="do not write the page for the browser, viewer/index.html"
    )
    add_ledger_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Draw the pictures, write the summary."""
    from muse_pipeline.steps import overlay

    overlay(args.folder, viewer=not args.no_viewer)
