"""All slides in one table on the page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from muse_pipeline.report.cohort import STATUSES, SlideResult, class_names
from muse_pipeline.report.markup import Markup, element
from muse_pipeline.report.slide_card import appearance_pill, status_pill
from muse_pipeline.report.wording import area_text, count_text, density_text, time_text


def slide_table(slides: Sequence[tuple[str, SlideResult]]) -> Markup:
    """The table of (anchor, slide) in the order given; a script in the page makes its columns sortable."""
    names = class_names(slide for _, slide in slides)
    labels = ["Slide", "Status", "Tissue mm²", "Nuclei", "Nuclei/mm²", *names, "Time"]
    head = [element("th", label, scope="col", class_=None if i < 2 else "number") for i, label in enumerate(labels)]
    rows = [_row(anchor, slide, names) for anchor, slide in slides]
    table = element("table", element("thead", element("tr", *head)), element("tbody", *rows), class_="sortable")
    return element("div", table, class_="scroll")


def _row(anchor: str, slide: SlideResult, names: Iterable[str]) -> Markup:
    counts = {each["name"]: each["n_nuclei"] for each in slide.summary["classes"]} if slide.summary else {}
    link = element("a", element("bdi", slide.slide_id), href=f"#{anchor}")
    return element(
        "tr",
        element("th", link, scope="row"),
        element("td", status_pill(slide.status), appearance_pill(slide), data_value=STATUSES.index(slide.status)),
        _number(area_text(slide.tissue_mm2), slide.tissue_mm2),
        _number(count_text(slide.n_nuclei), slide.n_nuclei),
        _number(density_text(slide.nuclei_per_mm2), slide.nuclei_per_mm2),
        *(_number(count_text(counts.get(name)), counts.get(name)) for name in names),
        _number(time_text(slide.seconds or None), slide.seconds),
    )


def _number(text: str, value: float | None) -> Markup:
    return element("td", text, class_="number", data_value=-1 if value is None else value)
