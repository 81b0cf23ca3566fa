"""Name the settings in which a run differs from the finished results that it replaces.

The workflow calls it at its start for the slides that are to be run again. It prints nothing if nothing is replaced.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from muse_pipeline.cli.arguments import add_frame_argument, add_quality_arguments, read_quality
from muse_pipeline.core.types import FEATURE_SETS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("results", type=Path, metavar="RESULTS", help="folder with one folder per slide")
    parser.add_argument("--slides", type=Path, required=True, metavar="JSON", help="resolved sheet of these slides")
    parser.add_argument("--model", type=Path, required=True, metavar="JSON", help="of `muse model --resolved`")
    add_frame_argument(parser)
    parser.add_argument("--features", choices=FEATURE_SETS, default="basic", help="features of the nuclei")
    add_quality_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Compare, print."""
    from muse_pipeline.cohort.changes import RunSettings, describe_changes, find_changes
    from muse_pipeline.cohort.sheet import SheetRow
    from muse_pipeline.core.errors import ConfigError
    from muse_pipeline.core.files import read_json

    try:
        rows, model = [SheetRow(**row) for row in read_json(args.slides)], read_json(args.model)
        how = args.frame, args.features, read_quality(args), None
        settings = RunSettings(model["name"], model.get("sha256"), model["provider"], *how)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{args.slides} or {args.model}: cannot be read ({error}); give those of a run") from error
    for line in describe_changes(
        {row.slide_id: find_changes(args.results / row.slide_id, row, settings) for row in rows}
    ):
        print(line)
