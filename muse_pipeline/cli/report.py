"""Report on a cohort: report.html, cohort.tsv, roi.tsv for regions of interest, and pictures of
every slide.

    muse report results  reads a run's results/sheet.json, and writes the files next to it
    muse report results --sheet slides.tsv --group label  compares slides by that column

Failed slides come first, with the step and the reason. The exit status is 0 even if slides failed.
"""

import argparse

from muse_pipeline.cli.arguments import Parser


def add_arguments(parser: Parser) -> None:
    parser.add_results("results", "RESULTS", "folder with one folder per slide")
    parser.add_path("--slides", "JSON", "resolved sheet (default: RESULTS/sheet.json)")
    parser.add_path("--pretraining", "FOLDER", "folder of a pretraining run to show")
    parser.add_argument(
        "--group", metavar="COLUMN", help="column of --sheet by which the plots compare slides"
    )
    parser.add_path("--sheet", "TSV", "your sheet of slides, for --group")
    parser.add_path("--statistics", "TSV", "table from `muse statistics`")
    parser.add_argument(
        "--no-model", default="", metavar="WHY", help="reason why there is no model"
    )
    parser.add_doubts()
    parser.add_output("HTML", "the page (default: RESULTS/report.html)", required=False)
    parser.add_path("--table", "TSV", "the table (default: RESULTS/cohort.tsv)")
    parser.add_threads("slides whose pictures are reduced at the same time")


def run(args: argparse.Namespace) -> None:
    from muse_pipeline.cohort.layout import CohortFiles
    from muse_pipeline.cohort.sheet import read_resolved
    from muse_pipeline.core.errors import SheetError
    from muse_pipeline.report.cohort import gather_cohort, read_groups
    from muse_pipeline.report.page import write_report

    if bool(args.group) != bool(args.sheet):
        raise SheetError(
            "--group and --sheet belong together; give both the column and your sheet of slides"
        )

    files = CohortFiles(args.results)
    page, table = args.output or files.report, args.table or files.table
    if not (args.slides or files.sheet.is_file()):
        raise SheetError(
            f"{args.results}: has no sheet.json; give the output folder of a run, or a sheet with"
            " --slides"
        )
    rows = read_resolved(args.slides or files.sheet)
    groups = read_groups(args.sheet, args.group) if args.group else {}
    slides = gather_cohort(args.results, rows, args.no_model, groups, args.include_doubtful)
    of_cohort = args.pretraining, args.statistics, args.no_model
    for line in write_report(slides, args.results, page, table, *of_cohort, args.threads):
        print(line)
