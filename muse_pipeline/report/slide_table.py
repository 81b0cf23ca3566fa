"""All slides in one table: what to look for, and where to look closer."""

from __future__ import annotations

from collections.abc import Sequence

from muse_pipeline.report.class_bar import share_cell
from muse_pipeline.report.cohort import SlideResult, class_names
from muse_pipeline.report.markup import Markup, element
from muse_pipeline.report.notices import find_notices, rank
from muse_pipeline.report.slide_card import pills
from muse_pipeline.report.wording import area_text, count_text, density_text, time_text


def slide_table(slides: Sequence[tuple[str, SlideResult]]) -> Markup:
    """The table of (anchor, slide) in the order given; a script in the page filters its rows and sorts them."""
    names = class_names(slide for _, slide in slides if slide.positive is None)
    with_positive = any(slide.positive for _, slide in slides)
    labels = ["Slide", "Status", "Tissue mm²", "Nuclei", "Nuclei/mm²", *names]
    labels += [*(["Positive"] if with_positive else []), "Time"]
    head = [element("th", label, scope="col", class_=None if i < 2 else "number") for i, label in enumerate(labels)]
    rows = [_row(anchor, slide, names, with_positive) for anchor, slide in slides]
    table = element("table", element("thead", element("tr", *head)), element("tbody", *rows), class_="sortable")
    return element("div", table, class_="scroll slides")


def _row(anchor: str, slide: SlideResult, names: Sequence[str], with_positive: bool) -> Markup:
    n, tissue_mm2 = slide.n_nuclei, slide.tissue_mm2
    has_classes = slide.summary and slide.positive is None  # the model's are not for immunohistochemistry
    counts = {each["name"]: each["n_nuclei"] for each in slide.summary["classes"]} if has_classes else {}
    notices, link = find_notices(slide), element("a", element("bdi", slide.slide_id), href=f"#{anchor}")
    positive = share_cell(slide.positive["n_positive"] if slide.positive else None, n or 0, None)
    return element(
        "tr",
        element("th", element("span", _thumbnail(slide), link, class_="named"), scope="row"),
        element("td", pills(slide), data_value=rank(slide)),
        _number(area_text(tissue_mm2), tissue_mm2),
        _number(count_text(n), n),
        _number(density_text(slide.nuclei_per_mm2), slide.nuclei_per_mm2),
        *(share_cell(counts.get(name), n or 0, tissue_mm2) for name in names),
        positive if with_positive else None,
        _number(time_text(slide.seconds or None), slide.seconds),
        data_slide=anchor,
        data_status=slide.status,
        data_level=notices[0].level if notices else None,
    )


def _thumbnail(slide: SlideResult) -> Markup:
    """A small picture of the slide; an empty place where there is none."""
    source = slide.summary["thumbnail"] if slide.summary else None
    return element("span", element("img", src=source, alt="", loading="lazy") if source else None, class_="thumbnail")


def _number(text: str, value: float | None) -> Markup:
    return element("td", text, class_="number", data_value=-1 if value is None else value)
