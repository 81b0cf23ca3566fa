"""Write a slide's nuclei, or the slides of a cohort, as AnnData for scanpy and squidpy.

    muse step anndata results/slide/nuclei.parquet -o results/slide/nuclei.h5ad
    muse step anndata results --sheet slides.tsv -o results/cohort.h5ad

For a slide, X has the features, obs has the class, its probabilities and the slide, and obsm has
the positions in um ("spatial") and in level-0 px. For a cohort, X has a row of numbers per slide
(densities, percentages of the classes, medians of the features, mixing, infiltration), and obs has
the columns of the sheet. Needs the extra `spatial`.
"""

from __future__ import annotations

from pathlib import Path

from muse_pipeline.cli.signature import Results
from muse_pipeline.core.types import Written


def run(
    nuclei: Results,
    output: Written,
    patient: str | None = None,
    embeddings: Path | None = None,
    sheet: Path | None = None,
    threads: int = 1,
) -> None:
    """Write the file.

    Args:
        nuclei: nuclei.parquet, or the folder of a run's results
        output: file to write (.h5ad)
        patient: patient of the slide (default: from the name of the slide)
        embeddings: vectors of the nuclei, from `muse embed`
        sheet: sheet of the cohort (default: sheet.json in the results)
        threads: slides of a cohort that are read at the same time
    """
    if not nuclei.is_dir():
        from muse_pipeline.scverse.anndata import write_anndata

        write_anndata(nuclei, output, patient, embeddings)
        return
    from muse_pipeline.cohort.layout import CohortFiles
    from muse_pipeline.cohort.sheet import read_resolved, read_sheet
    from muse_pipeline.core.text import count_noun
    from muse_pipeline.statistics.cohort import write_cohort

    rows = (
        [row.cells() for row in read_sheet(sheet)]
        if sheet
        else read_resolved(CohortFiles(nuclei).sheet)
    )
    print(f"{output}: {count_noun(write_cohort(nuclei, rows, output, threads), 'slide')}")
