"""Write a Snakefile, a config and profiles into the folder of a study.

    muse workflow study --slides /path/to/slides
    cd study && muse preflight config/slides.tsv && snakemake

The Snakefile includes the workflow that is installed with this package, so no repository is needed,
and after an update of the package the study runs the new version. Existing files are not
overwritten.
"""

import argparse
from pathlib import Path

from muse_pipeline.cli.arguments import Parser, positive


def add_arguments(parser: Parser) -> None:
    parser.add_path("folder", "DIR", "folder of the study", nargs="?", default=Path())
    parser.add_path("--slides", "FOLDER", "also write a sheet of the slides in this folder")
    parser.add_number("--mpp", positive, "UM", "um per pixel of these slides, not the files'")


def run(args: argparse.Namespace) -> None:
    """Write the files, and print the next command."""
    from muse_pipeline.cohort.collect import collect_slides, require_new_sheet, write_sheet
    from muse_pipeline.cohort.study import write_study
    from muse_pipeline.core.errors import ConfigError
    from muse_pipeline.core.text import count_noun

    if args.mpp and not args.slides:
        raise ConfigError("--mpp is for the slides of a sheet; give --slides FOLDER too")
    sheet, rows = (
        args.folder / "config/slides.tsv",
        args.slides and collect_slides(args.slides, args.mpp),
    )
    if rows:
        require_new_sheet(sheet)
    print(f"{args.folder}: {count_noun(len(write_study(args.folder)), 'file')} written")
    if rows:
        write_sheet(sheet, rows)
        print(f"{sheet}: {count_noun(len(rows), 'slide')}")
    elif not sheet.exists():
        print(f"next: `muse sheet FOLDER --output {sheet}`")
    print("configs to train models: `muse train --list`")
