"""Compare groups of patients by the nuclei of their slides.

    muse statistics results --sheet slides.tsv --group label -o results/statistics.tsv

Writes a row per measure and pair of groups: means, effect size with its 95 % interval, p of a
permutation test, and q, which controls the false discovery rate. The unit is the patient: slides of
the same patient are averaged first.
"""

import argparse

from muse_pipeline.cli.arguments import Parser


def add_arguments(parser: Parser) -> None:
    parser.add_results("results", "RESULTS", "folder with one folder per slide")
    parser.add_path("--sheet", "TSV", "table with a row per slide", required=True)
    parser.add_argument(
        "--group", required=True, metavar="COLUMN", help="column with the group of each slide"
    )
    parser.add_argument(
        "--patient", default="patient", metavar="COLUMN", help="column with the patients"
    )
    parser.add_doubts()
    parser.add_threads("slides that are read at the same time")
    parser.add_output("TSV")


def run(args: argparse.Namespace) -> None:
    from muse_pipeline.statistics.cohort import compare_cohort

    how = args.group, args.patient, args.output, args.include_doubtful, args.threads
    for line in compare_cohort(args.results, args.sheet, *how):
        print(line)
