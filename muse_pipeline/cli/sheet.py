"""Write a sheet from a folder of slides, or check one.

muse sheet FOLDER --output slides.tsv           one row per slide under FOLDER
muse sheet FOLDER --output slides.tsv --add     append the slides that the sheet lacks, and keep its rows as they are
muse sheet --check slides.tsv                   list every mistake, each with its row
"""

from __future__ import annotations

import argparse
from pathlib import Path

from muse_pipeline.cli.arguments import add_output_argument, positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``muse sheet``."""
    parser.add_argument("folder", type=Path, nargs="?", metavar="FOLDER", help="a folder of slides")
    add_output_argument(parser, "TSV", "where to write the sheet (TSV, or CSV by its suffix)", required=False)
    parser.add_argument("--mpp", type=positive, metavar="UM", help="um per pixel of every slide; overrides the files")
    parser.add_argument("--add", action="store_true", help="append the slides that the sheet lacks to it")
    parser.add_argument("--check", type=Path, metavar="TSV", help="check this sheet instead of writing one")
    parser.add_argument("--resolved", type=Path, metavar="JSON", help="with --check: the rows, with absolute paths")


def run(args: argparse.Namespace) -> None:
    """Check or write a sheet."""
    from muse_pipeline.core.errors import ConfigError

    if args.check:
        check_sheet(args.check, args.resolved)
    elif args.folder and args.output:
        make_sheet(args.folder, args.output, args.mpp, args.add)
    else:
        raise ConfigError("give a FOLDER and --output to write a sheet, or --check SHEET to check one")


def check_sheet(path: Path, resolved: Path | None) -> None:
    """Check a sheet; write its rows as JSON if requested."""
    from muse_pipeline.cohort.sheet import read_sheet
    from muse_pipeline.core.files import write_json

    rows = read_sheet(path)
    if resolved:
        write_json(resolved, [row.to_dict() for row in rows])
    print(f"{path}: {len(rows)} slide{'s' * (len(rows) != 1)}, nothing wrong")


def make_sheet(folder: Path, output: Path, mpp: float | None, add: bool = False) -> None:
    """Write the sheet of a folder, or add its slides to an existing one."""
    from muse_pipeline.cohort.collect import add_to_sheet, collect_slides, write_sheet
    from muse_pipeline.core.text import count_noun

    rows = collect_slides(folder, mpp)
    if add and output.exists():
        n_new = len(add_to_sheet(output, rows))
        print(f"{output}: {count_noun(n_new, 'slide')} added, {count_noun(len(rows) - n_new, 'slide')} there already")
        return
    write_sheet(output, rows)
    print(f"{output}: {count_noun(len(rows), 'slide')}")
