"""Check every slide before a run: unreadable files, duplicates, scanners, bytes to fetch.

    muse preflight slides.tsv --threads 4     a sheet, a folder, slides, or URLs of slides
    snakemake preflight --cores 4             the same for the workflow's sheet and model

Opens each slide in a separate process, finds its tissue and reads some tiles. A slide at a URL is not fetched; only its
existence and size are checked. The exit status is 2 if a slide cannot run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from muse_pipeline.cli.arguments import (
    add_json_argument,
    add_threads_argument,
    fraction,
    path_or_url,
    positive,
    show_result,
)

WRITES = frozenset({"record", "json"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``muse preflight``."""
    parser.add_argument("slides", type=path_or_url, nargs="+", metavar="SLIDES", help="a sheet, a folder, or slides")
    parser.add_argument(
        "--mpp", type=positive, metavar="UM", help="um per level-0 pixel of slides or a folder, instead of the files'"
    )
    parser.add_argument("--model", default="compact", help="model that will find the nuclei (default: %(default)s)")
    parser.add_argument(
        "--max-corrupt", type=fraction, default=0.01, metavar="F", help="fraction of the tissue that may be undecodable"
    )
    add_threads_argument(parser, "slides checked at the same time")
    parser.add_argument(
        "--records", type=Path, metavar="RESULTS", help="summarise the checks in RESULTS/<slide_id>/preflight.json"
    )
    parser.add_argument("--record", type=Path, metavar="JSON", help="write the check of one slide, without a summary")
    parser.add_argument("--slide-id", metavar="ID", help="with --record: name in the cohort, or in the sheet")
    parser.add_argument("--roi", type=Path, metavar="GEOJSON", help="analyse only these areas, drawn in QuPath")
    add_json_argument(parser, "everything")


def run(args: argparse.Namespace) -> None:
    """Check the slides and print a summary."""
    from dataclasses import asdict, replace

    from muse_pipeline.cohort.collect import find_rows
    from muse_pipeline.cohort.sheet import is_sheet, read_row
    from muse_pipeline.core.errors import ConfigError, SlideError
    from muse_pipeline.core.files import write_json
    from muse_pipeline.core.process import show_progress
    from muse_pipeline.inference.card import ModelCard
    from muse_pipeline.inference.model import find_model, read_card
    from muse_pipeline.preflight import check_slides, read_check, render_preflight, sum_up

    sheets = [where for where in args.slides if isinstance(where, Path) and is_sheet(where)]
    if args.slide_id and sheets == args.slides[:1]:
        rows = [read_row(*sheets, args.slide_id)]
    else:
        rows = find_rows(args.slides, args.mpp, args.roi)
    card = read_card(find_model(args.model), ModelCard)
    if args.record:
        if len(rows) != 1:
            raise ConfigError(f"--record {args.record}: takes one slide, but {len(rows)} are given; leave it out")
        row = replace(rows[0], slide_id=args.slide_id or rows[0].slide_id)
        ((_, check),) = check_slides([row], card, args.max_corrupt)
        write_json(args.record, asdict(check))
        return
    if args.records:
        checks = [read_check(args.records / row.slide_id / "preflight.json") for row in rows]
    else:
        checks = [None] * len(rows)
        with show_progress("slides") as progress:
            for done, (number, check) in enumerate(check_slides(rows, card, args.max_corrupt, args.threads), 1):
                checks[number] = check
                progress(done, len(rows))
    cohort = sum_up(checks)
    show_result(render_preflight(cohort), cohort, args.json)
    if cohort["n_problems"]:
        names = [check.slide_id for check in checks if check.problem]
        shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        raise SlideError(f"{len(names)} of {len(checks)} slides cannot run ({shown}); fix them or take them out")
