"""Check every slide before the run: unreadable files, duplicates, time and disk space.

    muse preflight slides.tsv --threads 4     a sheet, a folder, slides themselves, or their URLs
    snakemake preflight --cores 4             the same for the workflow's sheet and model

Opens each slide in a separate process, finds its tissue, reads some tiles and runs some windows of the model, so that
times are those of this machine under its current load. A slide at a URL is not fetched; only its existence and size
are checked. The exit status is 2 if a slide cannot run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from muse_pipeline.cli.arguments import (
    add_provider_argument,
    add_threads_argument,
    at_least_one,
    fraction,
    path_or_url,
    positive,
)
from muse_pipeline.cli.output import add_json_argument, show_result

WRITES = frozenset({"record", "json"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``muse preflight``."""
    parser.add_argument("slides", type=path_or_url, nargs="+", metavar="SLIDES", help="a sheet, a folder, or slides")
    parser.add_argument(
        "--mpp", type=positive, metavar="UM", help="um per pixel of slides or a folder; overrides that of the files"
    )
    parser.add_argument("--model", default="compact", help="model of the detection (default: %(default)s)")
    add_provider_argument(parser)
    parser.add_argument(
        "--max-corrupt", type=fraction, default=0.01, metavar="F", help="fraction of the tissue that may be undecodable"
    )
    add_threads_argument(parser, "slides checked at the same time")
    parser.add_argument("--run-threads", type=at_least_one, metavar="N", help="threads of the run (default: all cores)")
    parser.add_argument("--records", type=Path, metavar="RESULTS", help="gather RESULTS/<slide_id>/preflight.json")
    parser.add_argument("--record", type=Path, metavar="JSON", help="one slide: write its check and no summary")
    parser.add_argument("--slide-id", metavar="ID", help="with --record: name in the cohort, or row of a sheet")
    parser.add_argument("--roi", type=Path, metavar="GEOJSON", help="keep to these areas, drawn in QuPath")
    add_json_argument(parser, "everything")


def run(args: argparse.Namespace) -> None:
    """Check the slides, summarise, print."""
    from dataclasses import asdict, replace

    from muse_pipeline.cohort.collect import find_rows
    from muse_pipeline.cohort.sheet import is_sheet, read_row
    from muse_pipeline.core.environment import count_cores, own_processor_seconds
    from muse_pipeline.core.errors import ConfigError, SlideError
    from muse_pipeline.core.files import write_json
    from muse_pipeline.inference.model import choose_provider, find_model
    from muse_pipeline.preflight.check import Trial, check_slides, read_check
    from muse_pipeline.preflight.estimate import render_preflight, sum_up

    start_seconds = own_processor_seconds()  # so far: Python and the libraries, as every step loads them
    sheets = [where for where in args.slides if isinstance(where, Path) and is_sheet(where)]
    if args.slide_id and sheets == args.slides[:1]:
        rows = [read_row(*sheets, args.slide_id)]
    else:
        rows = find_rows(args.slides, args.mpp, args.roi)
    provider = choose_provider(args.provider)
    trial = Trial(find_model(args.model, provider), provider, args.max_corrupt)
    if args.record:
        if len(rows) != 1:
            raise ConfigError(f"--record {args.record}: takes one slide, and {len(rows)} are given; leave it out")
        row = replace(rows[0], slide_id=args.slide_id or rows[0].slide_id)
        ((_, check),) = check_slides([row], trial)
        write_json(args.record, asdict(check))
        return
    if args.records:
        checks = [read_check(args.records / row.slide_id / "preflight.json") for row in rows]
    else:
        checks = check_with_progress(rows, trial, args.threads)
    cohort = sum_up(checks, args.run_threads or count_cores(), start_seconds)
    show_result(render_preflight(cohort), cohort, args.json)
    if cohort["n_problems"]:
        names = [check.slide_id for check in checks if check.problem]
        shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        raise SlideError(f"{len(names)} of {len(checks)} slides cannot run ({shown}); fix them or take them out")


def check_with_progress(rows: list, trial, threads: int) -> list:
    """The checks of the rows, in their order."""
    from muse_pipeline.core.process import show_progress
    from muse_pipeline.preflight.check import check_slides

    checks = [None] * len(rows)
    with show_progress("slides") as progress:
        for done, (number, check) in enumerate(check_slides(rows, trial, threads), 1):
            checks[number] = check
            progress(done, len(rows))
    return checks
