"""Write a Snakefile, a config and profiles into the folder of a study.

    muse workflow study --slides /path/to/slides
    cd study && muse preflight config/slides.tsv && snakemake

The Snakefile includes the workflow that is installed with this package, so no repository is needed,
and after an update of the package the study runs the new version. Existing files are not
overwritten.
"""

from __future__ import annotations

from pathlib import Path


def run(folder: Path = Path(), /, slides: Path | None = None, mpp: float | None = None) -> None:
    """Write the files, and print the next command.

    Args:
        folder: folder of the study (default: this one)
        slides: also write a sheet of the slides in this folder
        mpp: um per pixel of these slides, not the files'
    """
    from muse_pipeline.cohort.collect import collect_slides, require_new_sheet, write_sheet
    from muse_pipeline.cohort.study import write_study
    from muse_pipeline.core.errors import ConfigError
    from muse_pipeline.core.text import count_noun

    if mpp and not slides:
        raise ConfigError("--mpp is for the slides of a sheet; give --slides FOLDER too")
    sheet = folder / "config/slides.tsv"
    rows = slides and collect_slides(slides, mpp)
    if rows:
        require_new_sheet(sheet)
    print(f"{folder}: {count_noun(len(write_study(folder)), 'file')} written")
    if rows:
        write_sheet(sheet, rows)
        print(f"{sheet}: {count_noun(len(rows), 'slide')}")
    elif not sheet.exists():
        print(f"next: `muse sheet FOLDER --output {sheet}`")
    print("configs to train models: `muse train --list`")
