"""Check every slide before a run: unreadable files, duplicates, scanners, bytes to fetch.

    muse preflight slides.tsv --threads 4     a sheet, a folder, slides, or URLs of slides

Opens each slide in a separate process, finds its tissue and reads some tiles. A slide at a URL is
not fetched; only its existence and size are checked. The exit status is 2 if a slide cannot run.
"""

import argparse

from muse_pipeline.cli.arguments import Parser, fraction, path_or_url, positive, show_result


def add_arguments(parser: Parser) -> None:
    parser.add_argument(
        "slides", type=path_or_url, nargs="+", metavar="SLIDES", help="a sheet, a folder, or slides"
    )
    parser.add_number(
        "--mpp", positive, "UM", "um per level-0 pixel of slides or a folder, instead of the files'"
    )
    parser.add_argument("--model", default="compact", help="model that will find the nuclei")
    parser.add_number(
        "--max-corrupt",
        fraction,
        "F",
        "fraction of the tissue that may be undecodable",
        default=0.01,
    )
    parser.add_threads("slides checked at the same time")
    parser.add_path("--roi", "GEOJSON", "analyse only these areas, drawn in QuPath")
    parser.add_json("everything")


def run(args: argparse.Namespace) -> None:
    from muse_pipeline.cohort.collect import find_rows
    from muse_pipeline.core.errors import SlideError
    from muse_pipeline.core.process import show_progress
    from muse_pipeline.core.text import some_of
    from muse_pipeline.inference.card import ModelCard
    from muse_pipeline.inference.model import find_model, read_card
    from muse_pipeline.preflight import check_slides, render_preflight, sum_up

    rows = find_rows(args.slides, args.mpp, args.roi)
    card = read_card(find_model(args.model), ModelCard)
    checks = []
    with show_progress("slides") as progress:
        for check in check_slides(rows, card, args.max_corrupt, args.threads):
            checks.append(check)
            progress(len(checks), len(rows))
    cohort = sum_up(checks)
    show_result(render_preflight(cohort), cohort, args.json)
    if names := [check.slide_id for check in checks if check.problem]:
        raise SlideError(
            f"{len(names)} of {len(rows)} slides cannot run ({some_of(names, 10)}); fix or remove"
            " them"
        )
