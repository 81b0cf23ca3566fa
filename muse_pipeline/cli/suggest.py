"""Suggest which fields to check next: where classes are unsure, unlike other fields, and unlike each other.

    muse suggest results            of all slides of a run; writes results/suggest.tsv
    muse suggest results/S -n 5     of one slide

Positions are QuPath's pixels, of the middle of a square of 256 um. `muse report` lists them with links to the viewer.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from muse_pipeline.cli.arguments import add_output_argument, at_least_one


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``muse suggest``."""
    parser.add_argument("results", type=Path, metavar="RESULTS", help="output folder of a run, or of one slide of it")
    parser.add_argument(
        "-n", "--fields", type=at_least_one, default=10, metavar="N", help="how many (default: %(default)s)"
    )
    add_output_argument(parser, "TSV", "the table (default: RESULTS/suggest.tsv)", required=False)


def run(args: argparse.Namespace) -> None:
    """Choose, write, print."""
    from muse_pipeline.viewer.suggest import FILE, suggest_fields, write_suggestions

    rows = suggest_fields(args.results, args.fields)
    write_suggestions(rows, args.output or args.results / FILE)
    for row in rows:
        print(f"{row['rank']:>3}  {row['slide_id']}  {row['x']}, {row['y']}  {row['nuclei']} nuclei, {row['why']}")
