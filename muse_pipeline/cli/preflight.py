"""Check every slide before a run: unreadable files, duplicates, scanners, bytes to fetch.

    muse preflight slides.tsv --threads 4     a sheet, a folder, slides, or URLs of slides

Opens each slide in a separate process, finds its tissue and reads some tiles. A slide at a URL is
not fetched; only its existence and size are checked. The exit status is 2 if a slide cannot run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from muse_pipeline.cli.arguments import show_result
from muse_pipeline.cli.signature import Location
from muse_pipeline.core.types import Written


def run(
    slides: Sequence[Location],
    mpp: float | None = None,
    model: str = "compact",
    max_corrupt: float = 0.01,
    threads: int = 1,
    roi: Path | None = None,
    json: Written | None = None,
) -> None:
    """Check the slides.

    Args:
        slides: a sheet, a folder, or slides
        mpp: um per level-0 pixel of slides or a folder, instead of the files'
        model: model that will find the nuclei
        max_corrupt: fraction of the tissue that may be undecodable
        threads: slides checked at the same time
        roi: analyse only these areas, drawn in QuPath (GeoJSON)
        json: everything as JSON, in FILE; without FILE, printed instead of the text
    """
    from muse_pipeline.cohort.collect import find_rows
    from muse_pipeline.core.errors import SlideError
    from muse_pipeline.core.process import show_progress
    from muse_pipeline.core.text import some_of
    from muse_pipeline.inference.card import ModelCard
    from muse_pipeline.inference.model import find_model, read_card
    from muse_pipeline.preflight import check_slides, render_preflight, sum_up

    rows = find_rows(slides, mpp, roi)
    card = read_card(find_model(model), ModelCard)
    checks = []
    with show_progress("slides") as progress:
        for check in check_slides(rows, card, max_corrupt, threads):
            checks.append(check)
            progress(len(checks), len(rows))
    cohort = sum_up(checks)
    show_result(render_preflight(cohort), cohort, json)
    if names := [check.slide_id for check in checks if check.problem]:
        raise SlideError(
            f"{len(names)} of {len(rows)} slides cannot run ({some_of(names, 10)}); fix or remove"
            " them"
        )
