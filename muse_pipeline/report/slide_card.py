"""The card of one slide on the page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from muse_pipeline.core.coords import qupath_offset_px
from muse_pipeline.core.provenance import NOT_KNOWN, Provenance, Roi
from muse_pipeline.core.text import (
    area_text,
    count_noun,
    count_text,
    density_text,
    memory_text,
    percent_text,
    time_text,
)
from muse_pipeline.core.types import SlideInfo
from muse_pipeline.inference import dab
from muse_pipeline.registration.record import CHECKERBOARD
from muse_pipeline.report.cohort import SlideResult, class_names
from muse_pipeline.report.density import WHOLE
from muse_pipeline.report.html import Album, Markup, element, join
from muse_pipeline.report.ihc import COMPARTMENTS, score
from muse_pipeline.report.notices import RED, find_notices
from muse_pipeline.report.regions import region_table

_OVERVIEW_PX, _OVERLAY_PX = 640, 1068
WIDE = 0.12  # share of a class from which its name fits into the bar
EQUAL_CONTRAST = 0.179  # relative luminance of a colour on which black and white are equally legible


def slide_card(slide: SlideResult, anchor: str, album: Album) -> Markup:
    """All facts about a slide: outcome, figures, pictures, warnings, steps, provenance."""
    return element(
        "article",
        element("header", element("h3", element("bdi", slide.slide_id)), pills(slide)),
        element("p", _ending(slide), class_=f"reason {slide.status}") if slide.reason else None,
        element("p", describe_use(slide), class_="use"),
        _facts(slide),
        _explain_classes(slide) if slide.n_nuclei else None,
        class_bar(_bar_of(slide), slide.tissue_mm2) if slide.n_nuclei else None,
        _annotations(slide),
        region_table(slide.regions),
        *_warnings(slide),
        _pictures(slide, anchor, album),
        _files(slide, album),
        _details("Steps: time and memory", _steps(slide)),
        _details("Provenance", _provenance(slide.provenance)) if slide.provenance else None,
        id=anchor,
        class_="slide",
    )


def describe_use(slide: SlideResult) -> str:
    """The numbers of a slide that may be used, in one sentence, by its outcome and its warnings."""
    words = {notice.word for notice in find_notices(slide)}
    of_all = (
        (not slide.summary, "No number of this slide may be used."),
        ("doubtful scale" in words, "No number may be used before the size of a pixel is corrected or confirmed."),
        (not slide.n_nuclei, "No nucleus was found; look at the picture of the tissue before you use that."),
        (
            slide.positive,
            "Counts of positive and negative nuclei may be used if the overlays are right; classes may not.",
        ),
        ("other stain" in words, "No number may be used: the model is for another stain."),
    )
    if sentence := next((sentence for applies, sentence in of_all if applies), None):
        return sentence
    is_whole = slide.status != "partial"
    numbers = "Counts and outlines" if is_whole else "Densities and percentages, but no counts,"
    unsure = (
        ("unlike training" in words or slide.appearance == NOT_KNOWN, "the overlays are right"),
        ("check mpp" in words, "the size of a pixel is right"),
        ("check tissue" in words, "the tissue was found"),
        ("check picture" in words, "the right picture of the file was read"),
    )
    provisos = [proviso for applies, proviso in unsure if applies]
    condition = f" if {' and '.join(provisos)}" if provisos else ""
    of_classes = {
        "doubtful classes": "; classes may not",
        "classes not validated": "; classes are not validated for this tissue",
    }
    known = "; classes only on tissue of the kind that the model was trained on" if len(_bar_of(slide)) > 1 else ""
    classes = next((text for word, text in of_classes.items() if word in words), known)
    return f"{numbers} may be used{condition}{classes}."


def status_pill(status: str) -> Markup:
    """The status as a word with its colour."""
    return element("span", status, class_=f"pill {status}")


def pills(slide: SlideResult) -> Markup:
    """The status and the warnings of a slide."""
    found = [status_pill(slide.status)]
    found += [element("span", word, class_=f"pill {level}") for level, word, _ in find_notices(slide) if word]
    if slide.appearance == NOT_KNOWN:
        found.append(element("span", "likeness to training not known", class_="pill"))
    return element("span", *found, class_="pills")


def definitions(pairs: dict[str, object], class_: str) -> Markup:
    """A list of terms with their values; a value of None leaves its term out."""
    rows = [element("div", element("dt", k), element("dd", v)) for k, v in pairs.items() if v is not None]
    return element("dl", join(rows), class_=class_)


def _ending(slide: SlideResult) -> str:
    return f"{slide.step}: {slide.reason}" if slide.step else slide.reason


def _facts(slide: SlideResult) -> Markup:
    info = slide.info
    pairs: dict[str, object] = {
        "Nuclei": count_text(slide.n_nuclei) if slide.summary else None,
        "Proposals": _proposals(slide.summary["proposals"])
        if slide.summary and slide.summary.get("proposals")
        else None,
        "Tissue": _tissue(slide) if slide.tissue_mm2 is not None else None,
        "Density": f"{density_text(slide.nuclei_per_mm2)} /mm²" if slide.nuclei_per_mm2 else None,
        "Positive": _positive(slide.positive) if slide.positive and slide.n_nuclei else None,
        "Scores": _scores(slide.intensities["slide"]) if slide.intensities and slide.n_nuclei else None,
        "Artefacts": _artefacts(slide) if slide.artefacts_mm2 is not None else None,
        "Cores": _cores(slide.summary["tma"]) if slide.summary and slide.summary.get("tma") else None,
        "Region of interest": _roi(slide.roi) if slide.roi else None,
    }
    if info:
        mpp = " × ".join(f"{mpp:.4g}" for mpp in dict.fromkeys(info.mpp))
        pairs["Pixel size"] = element("span", f"{mpp} µm ", element("small", info.mpp_source))
        pairs["Size"] = element(
            "span", " × ".join(f"{n:,}" for n in info.size_px), " px ", element("small", info.vendor)
        )
    pairs["Time"] = time_text(slide.seconds) if slide.seconds else None
    return definitions(pairs, "facts")


def _tissue(slide: SlideResult) -> Markup:
    """Area of the tissue, without artefacts that are left out."""
    without = element("small", "without artefacts") if slide.left_out_mm2 else None
    return element("span", f"{area_text(slide.tissue_mm2)} mm² ", without)


def _artefacts(slide: SlideResult) -> Markup:
    """Area and percentage of the tissue by kind of artefact, and what is in no total."""
    found, whole = {kind: mm2 for kind, mm2 in slide.artefacts_mm2.items() if mm2}, slide.processed_mm2
    areas = [f"{area_text(mm2)} mm² {kind} ({100 * mm2 / whole:.1f} %)" for kind, mm2 in found.items()]
    n, share = slide.n_left_out, 100 * slide.left_out_mm2 / whole if whole else 0.0
    left_out = f"{share:.1f} % of the tissue, {count_noun(n, 'nucleus', 'nuclei')} left out" if share else ""
    return element("span", ", ".join(areas) or "none", " ", element("small", left_out) if left_out else None)


def _positive(positive: dict[str, Any]) -> Markup:
    n = positive["n_positive"] + positive["n_negative"]
    number = element("small", f"{count_text(positive['n_positive'])} of {count_text(n)}")
    return element("span", f"{positive['percent_positive']:.1f} % ", number)


def _scores(compartments: dict[str, Any]) -> Markup:
    """H-score and Allred score of nuclei, and of cytoplasm and membranes if cells were measured."""
    found = {name: score(compartments[name]) for name in COMPARTMENTS if sum(compartments.get(name, ()))}
    texts = [f"H-score {each['h_score']:.0f}, Allred {each['allred']} ({name})" for name, each in found.items()]
    return element("span", "; ".join(texts))


def _cores(tma: dict[str, Any]) -> Markup:
    """Number of cores of a tissue microarray, and the missing ones."""
    missing = element("small", f"missing: {', '.join(tma['missing'])}") if tma["missing"] else None
    return element("span", f"{tma['n_cores']} ", missing)


def _explain_classes(slide: SlideResult) -> Markup | None:
    why = slide.classes_left_out
    return element("p", f"Counts of classes, in no total: {why}.", class_="note") if why else None


def _bar_of(slide: SlideResult) -> list[dict[str, Any]]:
    """Classes of the bar; negative and positive nuclei for immunohistochemistry, which the classes are not for."""
    if slide.positive is None:
        return slide.summary["classes"]
    counts = slide.positive["n_negative"], slide.positive["n_positive"]
    return [
        {"name": each.name, "color": each.color, "n_nuclei": n} for each, n in zip(dab.CLASSES, counts, strict=True)
    ]


def _annotations(slide: SlideResult) -> Markup | None:
    """A table of the annotations of the region of interest."""
    rows = slide.summary["annotations"] if slide.summary else []
    if not rows:
        return None
    with_positive = slide.positive is not None
    names = ["Positive"] if with_positive else class_names([slide])
    labels = ["Annotation", "Class", "mm²", "Tissue mm²", "Nuclei", "Nuclei/mm²", *names]
    head = [element("th", label, scope="col", class_=None if i < 2 else "number") for i, label in enumerate(labels)]
    body = [_annotation(row, ["n_positive"] if with_positive else names) for row in rows]
    table = element("table", element("thead", element("tr", *head)), element("tbody", *body), class_="sortable")
    return element("div", table, class_="scroll annotations")


def _annotation(row: dict[str, Any], names: list[str]) -> Markup:
    n, tissue_mm2 = row["n_nuclei"], row["tissue_mm2"]
    counts = row["n_by_class"] | ({"n_positive": row["n_positive"]} if "n_positive" in row else {})
    density = n / tissue_mm2 if tissue_mm2 else None
    return element(
        "tr",
        element("th", element("bdi", row["name"]), scope="row"),
        element("td", element("bdi", row["class"]) if row["class"] else "–"),
        *(
            element("td", text, class_="number", data_value=-1 if value is None else value)
            for text, value in (
                (area_text(row["area_mm2"]), row["area_mm2"]),
                (area_text(tissue_mm2), tissue_mm2),
                (count_text(n), n),
                (density_text(density), density),
            )
        ),
        *(share_cell(counts[name], n, tissue_mm2) for name in names),
    )


def _roi(roi: Roi) -> Markup:
    return element("span", f"{area_text(roi.area_mm2)} mm² ", element("small", f"of {roi.name}"))


def _proposals(proposals: dict[str, Any]) -> Markup:
    return element("span", count_text(proposals["n_nuclei"]), " ", element("small", f"by {proposals['method']}"))


def _warnings(slide: SlideResult) -> Iterator[Markup]:
    """Warnings of the steps in two boxes: those in a red notice, and the rest."""
    red = [notice.sentence for notice in find_notices(slide) if notice.level == RED and notice.word]
    grave = [warning for warning in slide.warnings if any(warning in sentence for sentence in red)]
    mild = [warning for warning in slide.warnings if warning not in grave]
    for warnings, level in ((grave, "red"), (mild, "amber")):
        if warnings:
            yield element("ul", *(element("li", warning) for warning in warnings), class_=f"warnings {level}")


def _pictures(slide: SlideResult, anchor: str, album: Album) -> Markup:
    overview, fields = [], []
    if slide.finished("tissue"):
        overview.append(album.figure(slide.files.picture, "Tissue found", _OVERVIEW_PX, anchor))
    if slide.regions and slide.files.region_picture.is_file():
        overview.append(album.figure(slide.files.region_picture, "Tissue regions", _OVERVIEW_PX, anchor))
    if slide.partner and not slide.lacks_partner:
        caption = f"Registered partner: {_residuals(slide.partner['residuals'])}"
        overview.append(album.figure(slide.files.partner / CHECKERBOARD, caption, _OVERVIEW_PX, anchor))
    if slide.n_nuclei:
        has_artefacts = any((slide.artefacts_mm2 or {}).values())
        caption = "Density of nuclei, artefacts outlined" if has_artefacts else "Density of nuclei"
        overview.append(album.figure(slide.files.density, caption, _OVERVIEW_PX, anchor))
    if slide.summary:
        for field in slide.summary["fields"]:
            caption = _field_caption(field, slide.info)
            fields.append(album.figure(slide.folder / field["picture"], caption, _OVERLAY_PX, anchor))
    rows = [_picture_row(overview, "overview"), _picture_row(fields, "fields")]
    if slide.n_nuclei and not slide.summary["has_pixels"]:
        rows.append(element("p", "No overlays: the image store was removed before they could be drawn.", class_="note"))
    return join(rows)


def _residuals(residuals: dict[str, Any]) -> str:
    return (
        f"residual {residuals['median_um']:.1f} µm (95 % below {residuals['p95_um']:.1f}), "
        f"{residuals['kept']} of {residuals['tiles']} tiles kept"
    )


def _picture_row(figures: list[Markup | None], class_: str) -> Markup:
    return element("div", *figures, class_=class_) if any(figures) else Markup()


def _field_caption(field: dict[str, Any], info: SlideInfo) -> str:
    """Content of the field and, if that is not the whole slide, the position of its centre in QuPath."""
    what = f"{field['caption'].capitalize()}: {count_noun(field['n_nuclei'], 'nucleus', 'nuclei')}"
    if field["caption"] == WHOLE:
        return what
    corner = np.subtract(field["xy_level0"], qupath_offset_px(info.bounds))
    x, y = np.round(corner + np.array(field["size_um"]) / 2 / info.mpp).astype(int)
    return f"{what} around QuPath pixel {x}, {y}"


def _files(slide: SlideResult, album: Album) -> Markup:
    source = element("span", "Slide ", element("code", slide.path))
    if not slide.summary:
        return element("p", source, class_="files")
    files = slide.files
    proposals = [files.proposals_geojson, files.proposals] if slide.summary.get("proposals") else []
    regions = [files.region_outlines] if slide.regions else []
    artefacts = [files.artefacts] if slide.artefacts_mm2 else []
    results = [files.geojson, files.nuclei, *proposals, *regions, *artefacts, files.outline]
    links = [element("a", path.name, href=album.link(path)) for path in results if path.is_file()]
    pages = {"Open in the browser": files.viewer, "Compare two results": files.comparison}
    viewers = [
        element("a", text, href=album.link(page), class_="viewer") for text, page in pages.items() if page.is_file()
    ]
    return element("p", *viewers, source, element("br"), "Results ", join(links, " · "), class_="files")


def _steps(slide: SlideResult) -> Markup:
    names = "Step", "End", "Time", "Processor", "Peak memory", "Reason"
    head = element("tr", *(element("th", name, scope="col") for name in names))
    rows = [
        element(
            "tr",
            element("th", record.step, scope="row"),
            element("td", record.status),
            element("td", time_text(record.seconds), class_="number"),
            element("td", time_text(record.processor_seconds), class_="number"),
            element("td", memory_text(record.peak_memory_mib), class_="number"),
            element("td", record.reason),
        )
        for record in slide.progress
    ]
    return element("div", element("table", element("thead", head), element("tbody", *rows)), class_="scroll")


def _provenance(provenance: Provenance) -> Markup:
    """The provenance without the card, which is shown above, once for all slides."""
    known = provenance.to_dict().items()
    return _as_markup({key.replace("_", " "): value for key, value in known if key != "card"})


def _as_markup(value: Any) -> Markup:
    """A value of JSON: a dictionary as terms with values, a list of lists line by line, the rest as text."""
    if value and isinstance(value, dict):
        return definitions({key: _as_markup(value[key]) for key in sorted(value)}, "provenance")
    if isinstance(value, list) and any(isinstance(each, list | dict) for each in value):
        return element("ul", *(element("li", _as_markup(each)) for each in value))
    return element("code", _plain(value))


def _plain(value: Any) -> str:
    if value is None or value in ([], {}):
        return "none"
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return str(value)


def _details(summary: str, content: Markup) -> Markup:
    return element("details", element("summary", summary), content)


def class_bar(classes: Sequence[dict[str, Any]], tissue_mm2: float | None) -> Markup:
    """The bar of [{name, color, n_nuclei}]; the legend gives names and figures, so nothing depends on colour alone.

    Args:
        classes: classes to draw.
        tissue_mm2: area in mm2 that the nuclei were found in, for their density.
    """
    total = sum(each["n_nuclei"] for each in classes)
    parts = [
        element(
            "span",
            each["name"] if each["n_nuclei"] >= WIDE * total else None,
            style=f"flex-grow:{each['n_nuclei']};background:{css_color(each['color'])};color:{_ink_on(each['color'])}",
        )
        for each in classes
        if each["n_nuclei"]
    ]
    return element(
        "div",
        element("div", *parts, class_="bar", aria_hidden="true"),
        _legend(classes, total, tissue_mm2),
        class_="classes",
    )


def add_up(summaries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The classes of many slides with their nuclei added up."""
    total: dict[str, dict[str, Any]] = {}
    for summary in summaries:
        for each in summary["classes"]:
            known = total.setdefault(each["name"], {**each, "n_nuclei": 0})
            known["n_nuclei"] += each["n_nuclei"]
    return list(total.values())


def css_color(color: Sequence[int]) -> str:
    """``rgb(1 2 3)`` of a colour."""
    return f"rgb({' '.join(str(int(channel)) for channel in color)})"


def _ink_on(color: Sequence[int]) -> str:
    """Black or white, whichever has the higher contrast on ``color`` by WCAG 2."""
    linear = ((np.divide(color, 255) + 0.055) / 1.055) ** 2.4
    return "#000" if np.dot(linear, (0.2126, 0.7152, 0.0722)) > EQUAL_CONTRAST else "#fff"


def swatch(color: Sequence[int]) -> Markup:
    """A dot of that colour."""
    return element("i", style=f"background:{css_color(color)}")


def share_cell(n: int | None, total: int, tissue_mm2: float | None, without: str = "") -> Markup:
    """A cell with the percentage of ``n`` in ``total``, the sort key of its column, above their number and density.

    A cell without a number has a dash, or the reason in ``without``.
    """
    if n is None or not total:
        return element("td", element("small", without) if without else "–", class_="number", data_value=-1)
    density = f" · {density_text(n / tissue_mm2)}/mm²" if tissue_mm2 else ""
    small = element("small", f"{count_text(n)}{density}")
    return element("td", percent_text(n, total), small, class_="number share", data_value=round(100 * n / total, 4))


def _legend(classes: Sequence[dict[str, Any]], total: int, tissue_mm2: float | None) -> Markup:
    entries = []
    for each in classes:
        n = each["n_nuclei"]
        share = [percent_text(n, total)] if total else []
        density = [f"{density_text(n / tissue_mm2)} /mm²"] if tissue_mm2 else []
        figures = element("span", f"{count_text(n)} ({', '.join(share + density)})", class_="number")
        entries.append(element("li", swatch(each["color"]), element("bdi", each["name"]), " ", figures))
    return element("ul", join(entries), class_="legend")
