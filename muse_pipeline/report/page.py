"""``report.html``: one page that says what became of a cohort, needing neither network nor script."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path

from muse_pipeline import __version__
from muse_pipeline.files import complete_file
from muse_pipeline.report.class_bar import add_up, class_bar
from muse_pipeline.report.cohort import STATUSES, SlideResult, summarise_cohort
from muse_pipeline.report.markup import Markup, element, join
from muse_pipeline.report.model_facts import model_facts
from muse_pipeline.report.pictures import EMBEDDED_SLIDES, Album
from muse_pipeline.report.slide_card import definitions, slide_card
from muse_pipeline.report.slide_table import slide_table
from muse_pipeline.report.wording import area_text, count_text, density_text, time_text


def write_page(slides: Sequence[SlideResult], path: Path) -> None:
    """Write the page: what needs attention, the cohort, a table, every slide, the models.

    Slides are given in the order of the sheet and shown failed first, then partial, empty and ok. The pictures of up to
    ``EMBEDDED_SLIDES`` slides lie inside the page; a larger cohort's page links to the files beside it.
    """
    ranked = sorted(slides, key=lambda slide: STATUSES.index(slide.status))
    anchored = [(f"slide-{i}", slide) for i, slide in enumerate(ranked, 1)]
    album = Album(path, embedded=len(slides) <= EMBEDDED_SLIDES)
    with complete_file(path) as partial, partial.open("w", encoding="utf-8") as file:
        before, after = _frame(summarise_cohort(slides)).split("<!-- content -->")
        file.write(before)
        file.writelines(_sections(anchored, album))
        file.write(after)


def _frame(summary: str) -> str:
    """The document around the content; its policy lets the page load nothing and run its own script only."""
    folder = files("muse_pipeline.report")
    style, script = (folder.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data: file: 'self'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    head = join(
        [
            element("meta", charset="utf-8"),
            element("meta", http_equiv="Content-Security-Policy", content=policy),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("title", f"Nuclei report – {summary}"),
            element("style", Markup(style)),
        ]
    )
    content = element("main", Markup("<!-- content -->"))
    footer = element("footer", f"muse-pipeline {__version__} · for research use")
    body = element("body", content, footer, element("script", Markup(script)))
    return f'<!DOCTYPE html>\n<html lang="en">{element("head", head)}{body}</html>\n'


def _sections(anchored: Sequence[tuple[str, SlideResult]], album: Album) -> Iterator[Markup]:
    slides = [slide for _, slide in anchored]
    summaries = [slide.summary for slide in slides if slide.summary]
    yield element("h1", "Nuclei report")
    yield element("p", summarise_cohort(slides), class_="lead")
    yield _attention(anchored)
    yield _figures(slides)
    if any(summary["n_nuclei"] for summary in summaries):
        yield class_bar(add_up(summaries))
    yield element("h2", "All slides")
    yield slide_table(anchored)
    yield element("h2", "Slide by slide")
    for anchor, slide in anchored:
        yield slide_card(slide, anchor, album)
    if summaries:
        yield element("h2", "Model")
        yield model_facts(summary["provenance"] for summary in summaries)


def _attention(anchored: Sequence[tuple[str, SlideResult]]) -> Markup:
    """Failed and partial slides with their reasons, or nothing."""
    entries = [
        element(
            "li",
            element("a", element("bdi", slide.slide_id), href=f"#{anchor}"),
            f" {slide.status}{f' in {slide.step}' if slide.step else ''}: {slide.reason}",
        )
        for anchor, slide in anchored
        if slide.status in ("failed", "partial")
    ]
    if not entries:
        return Markup()
    return element("section", element("h2", "Needs attention"), element("ul", *entries), class_="attention")


def _figures(slides: Sequence[SlideResult]) -> Markup:
    finished = [slide for slide in slides if slide.summary]
    tissue_mm2 = sum(slide.tissue_mm2 or 0 for slide in finished)
    n_nuclei = sum(slide.n_nuclei or 0 for slide in finished)
    statuses = Counter(slide.status for slide in slides)
    pairs = {
        "Slides finished": f"{len(finished)} of {len(slides)}" if statuses["failed"] else count_text(len(slides)),
        "Tissue": f"{area_text(tissue_mm2)} mm²",
        "Nuclei": count_text(n_nuclei),
        "Density": f"{density_text(n_nuclei / tissue_mm2)} /mm²" if tissue_mm2 else None,
        "Computing time": time_text(sum(slide.seconds for slide in slides)),
    }
    return definitions(pairs, "figures")
