"""Tell what became of a cohort: report.html, cohort.tsv and pictures of every slide; roi.tsv where there are ROIs.

Failed slides come first, with the step and the reason. The exit status is 0 even if slides failed: saying so is the
report's work, failing is the workflow's.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from muse_pipeline.cli.arguments import add_output_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``muse report``."""
    parser.add_argument("results", type=Path, metavar="RESULTS", help="folder with one folder per slide")
    parser.add_argument("--slides", type=Path, required=True, metavar="JSON", help="resolved sheet: a list of rows")
    parser.add_argument("--pretraining", type=Path, metavar="FOLDER", help="of a pretraining run that belongs to it")
    parser.add_argument(
        "--no-model", default="", metavar="WHY", help="said of slides that were not detected as there is no model"
    )
    add_output_argument(parser, "HTML")
    parser.add_argument("--table", type=Path, required=True, metavar="TSV")


def run(args: argparse.Namespace) -> None:
    """Gather, write, sum up; lay the import script for QuPath beside the results."""
    from muse_pipeline.nuclei.qupath import copy_import_script
    from muse_pipeline.report.cohort import gather_cohort, read_rows, summarise_cohort, summarise_flags
    from muse_pipeline.report.page import write_page
    from muse_pipeline.report.table import write_roi_table, write_table

    slides = gather_cohort(args.results, read_rows(args.slides), args.no_model)
    write_table(slides, args.table)
    write_roi_table(slides, args.table.with_name("roi.tsv"))
    write_page(slides, args.output, args.pretraining)
    copy_import_script(args.results / "qupath")
    print(f"{summarise_cohort(slides)}; see {args.output}")
    for line in summarise_flags(slides):
        print(line)
