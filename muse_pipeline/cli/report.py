"""Report what became of a cohort: report.html, cohort.tsv, roi.tsv of regions of interest, and pictures of every slide.

    muse report results      reads results/sheet.json, as a run has left it, and writes the files beside it

Failed slides come first, with the step and the reason. The exit status is 0 even if slides failed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from muse_pipeline.cli.arguments import add_output_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``muse report``."""
    parser.add_argument("results", type=Path, metavar="RESULTS", help="folder with one folder per slide")
    parser.add_argument("--slides", type=Path, metavar="JSON", help="resolved sheet (default: RESULTS/sheet.json)")
    parser.add_argument("--pretraining", type=Path, metavar="FOLDER", help="of a pretraining run that belongs to it")
    parser.add_argument(
        "--no-model", default="", metavar="WHY", help="said of slides that were not detected as there is no model"
    )
    add_output_argument(parser, "HTML", "the page (default: RESULTS/report.html)", required=False)
    parser.add_argument("--table", type=Path, metavar="TSV", help="the table (default: RESULTS/cohort.tsv)")


def run(args: argparse.Namespace) -> None:
    """Gather, write, sum up; copy the import script for QuPath beside the results."""
    from muse_pipeline.qupath.import_script import copy_import_script
    from muse_pipeline.report.cohort import (
        gather_cohort,
        read_rows,
        summarise_cohort,
        summarise_failures,
        summarise_flags,
    )
    from muse_pipeline.report.page import write_page
    from muse_pipeline.report.tables import write_roi_table, write_table

    page, table = args.output or args.results / "report.html", args.table or args.results / "cohort.tsv"
    rows = read_rows(args.slides or find_sheet(args.results))
    slides = gather_cohort(args.results, rows, args.no_model)
    write_table(slides, table)
    write_roi_table(slides, table.with_name("roi.tsv"))
    write_page(slides, page, args.pretraining)
    copy_import_script(args.results / "qupath")
    print(f"{summarise_cohort(slides)}; see {page}")
    failures = [] if args.no_model else summarise_failures(slides)  # the same reason for all
    for line in [*failures, *summarise_flags(slides)]:
        print(line)


def find_sheet(results: Path) -> Path:
    """The sheet that a run has left among its results.

    Raises:
        SheetError: there is none.
    """
    from muse_pipeline.core.errors import SheetError

    sheet = results / "sheet.json"
    if not sheet.is_file():
        raise SheetError(f"{results}: has no sheet.json; give the output folder of a run, or a sheet with --slides")
    return sheet
