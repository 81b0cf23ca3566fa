"""Compare groups of patients by the nuclei of their slides.

    muse statistics results --sheet slides.tsv --group label -o results/statistics.tsv

Writes a row per measure and pair of groups: means, effect size with its 95 % interval, p of a
permutation test, and q, which controls the false discovery rate. The unit is the patient: slides of
the same patient are averaged first.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from muse_pipeline.cli.signature import Results
from muse_pipeline.core.types import Written


def run(
    results: Results,
    sheet: Path,
    group: str,
    output: Written,
    patient: str = "patient",
    include_doubtful: Sequence[str] = (),
    threads: int = 1,
) -> None:
    """Write the table.

    Args:
        results: folder with one folder per slide
        sheet: table with a row per slide
        group: column with the group of each slide
        output: table to write (TSV)
        patient: column with the patients
        include_doubtful: keep numbers with this kind of doubt in totals and statistics; may be
            given several times
        threads: slides that are read at the same time
    """
    from muse_pipeline.statistics.cohort import compare_cohort

    for line in compare_cohort(results, sheet, group, patient, output, include_doubtful, threads):
        print(line)
