"""Check whether and how QuPath imports GeoJSON files of any origin.

The exit status is 0 if every file contains objects and QuPath 0.4 to 0.7 import all of them as intended, else 2.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``muse check-geojson``."""
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help=".geojson or .json, either with .gz, or .zip"
    )


def run(args: argparse.Namespace) -> int:
    """Print a verdict for each file."""
    from muse_pipeline.qupath.check import check_geojson

    verdicts = []
    for path in args.files:
        verdicts.append(check_geojson(path))
        print(verdicts[-1], flush=True)
    return 0 if all(verdict.is_good for verdict in verdicts) else 2
