"""Report on a cohort: report.html, cohort.tsv, roi.tsv for regions of interest, and pictures of
every slide.

    muse report results  reads a run's results/sheet.json, and writes the files next to it
    muse report results --sheet slides.tsv --group label  compares slides by that column

Failed slides come first, with the step and the reason. The exit status is 0 even if slides failed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from muse_pipeline.cli.signature import Results
from muse_pipeline.core.types import Written


def run(
    results: Results,
    slides: Path | None = None,
    pretraining: Path | None = None,
    group: str | None = None,
    sheet: Path | None = None,
    statistics: Path | None = None,
    no_model: str = "",
    include_doubtful: Sequence[str] = (),
    output: Written | None = None,
    table: Written | None = None,
    threads: int = 1,
) -> None:
    """Write the report.

    Args:
        results: folder with one folder per slide
        slides: resolved sheet (default: RESULTS/sheet.json)
        pretraining: folder of a pretraining run to show
        group: column of --sheet by which the plots compare slides
        sheet: your sheet of slides, for --group
        statistics: table from `muse statistics`
        no_model: reason why there is no model
        include_doubtful: keep numbers with this kind of doubt in totals and statistics; may be
            given several times
        output: the page (default: RESULTS/report.html)
        table: the table (default: RESULTS/cohort.tsv)
        threads: slides whose pictures are reduced at the same time
    """
    from muse_pipeline.cohort.layout import CohortFiles
    from muse_pipeline.cohort.sheet import read_resolved
    from muse_pipeline.core.errors import SheetError
    from muse_pipeline.report.cohort import gather_cohort, read_groups
    from muse_pipeline.report.page import write_report

    if bool(group) != bool(sheet):
        raise SheetError(
            "--group and --sheet belong together; give both the column and your sheet of slides"
        )
    files = CohortFiles(results)
    if not (slides or files.sheet.is_file()):
        raise SheetError(
            f"{results}: has no sheet.json; give the output folder of a run, or a sheet with"
            " --slides"
        )
    rows = read_resolved(slides or files.sheet)
    groups = read_groups(sheet, group) if group else {}
    gathered = gather_cohort(results, rows, no_model, groups, include_doubtful)
    written = output or files.report, table or files.table
    for line in write_report(
        gathered, results, *written, pretraining, statistics, no_model, threads
    ):
        print(line)
