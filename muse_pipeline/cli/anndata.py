"""Write a slide's nuclei, or the slides of a cohort, as AnnData for scanpy and squidpy.

    muse anndata results/slide/nuclei.parquet -o results/slide/nuclei.h5ad
    muse anndata results --sheet slides.tsv -o results/cohort.h5ad

For a slide, X has the features, obs has the class, its probabilities and the slide, and obsm has
the positions in um ("spatial") and in level-0 px. For a cohort, X has a row of numbers per slide
(densities, percentages of the classes, medians of the features, mixing, infiltration), and obs has
the columns of the sheet. Needs the extra `spatial`.
"""

import argparse

from muse_pipeline.cli.arguments import Parser


def add_arguments(parser: Parser) -> None:
    parser.add_results("nuclei", "PATH", "nuclei.parquet, or the folder of a run's results")
    parser.add_argument(
        "--patient", help="patient of the slide (default: from the name of the slide)"
    )
    parser.add_path("--embeddings", "PARQUET", "vectors of the nuclei, from `muse embed`")
    parser.add_path("--sheet", "TSV", "sheet of the cohort (default: sheet.json in the results)")
    parser.add_threads("slides of a cohort that are read at the same time")
    parser.add_output("H5AD")


def run(args: argparse.Namespace) -> None:
    if not args.nuclei.is_dir():
        from muse_pipeline.scverse.anndata import write_anndata

        write_anndata(args.nuclei, args.output, args.patient, args.embeddings)
        return
    from muse_pipeline.cohort.layout import CohortFiles
    from muse_pipeline.cohort.sheet import read_resolved, read_sheet
    from muse_pipeline.core.text import count_noun
    from muse_pipeline.statistics.cohort import write_cohort

    rows = (
        [row.cells() for row in read_sheet(args.sheet)]
        if args.sheet
        else read_resolved(CohortFiles(args.nuclei).sheet)
    )
    n_slides = write_cohort(args.nuclei, rows, args.output, args.threads)
    print(f"{args.output}: {count_noun(n_slides, 'slide')}")
