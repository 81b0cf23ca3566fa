"""One slide on the page."""

from __future__ import annotations

from typing import Any

import numpy as np

from muse_pipeline.coords import qupath_offset_px
from muse_pipeline.inference.appearance import DOUBTFUL, OK, OTHER_STAIN
from muse_pipeline.report.class_bar import class_bar
from muse_pipeline.report.cohort import SlideResult
from muse_pipeline.report.markup import Markup, element, join
from muse_pipeline.report.pictures import Album
from muse_pipeline.report.wording import area_text, count_text, density_text, memory_text, time_text
from muse_pipeline.types import SlideInfo

_OVERVIEW_PX, _OVERLAY_PX = 640, 1068


def slide_card(slide: SlideResult, anchor: str, album: Album) -> Markup:
    """Everything about a slide: how it ended, figures, pictures, warnings, steps, provenance."""
    return element(
        "article",
        element(
            "header", element("h3", element("bdi", slide.slide_id)), status_pill(slide.status), appearance_pill(slide)
        ),
        element("p", _ending(slide), class_=f"reason {slide.status}") if slide.reason else None,
        _facts(slide),
        class_bar(slide.summary["classes"]) if slide.n_nuclei else None,
        _warnings(slide.warnings),
        _pictures(slide, anchor, album),
        _files(slide, album),
        _details("Steps: time and memory", _steps(slide)),
        _details("Provenance", _provenance(slide.summary["provenance"])) if slide.summary else None,
        id=anchor,
        class_="slide",
    )


def status_pill(status: str) -> Markup:
    """The status as a word with its colour."""
    return element("span", status, class_=f"pill {status}")


def appearance_pill(slide: SlideResult) -> Markup | None:
    """A second pill where the slide is unlike the model's training pictures, or where that is not known."""
    if slide.appearance in (None, OK):
        return None
    if slide.appearance not in DOUBTFUL:
        return element("span", "likeness to training not known", class_="pill")
    words = OTHER_STAIN if slide.appearance == OTHER_STAIN else "unlike training"
    return element("span", words, class_="pill partial")


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
        "Tissue": f"{area_text(slide.tissue_mm2)} mm²" if slide.tissue_mm2 is not None else None,
        "Density": f"{density_text(slide.nuclei_per_mm2)} /mm²" if slide.nuclei_per_mm2 else None,
        "Region of interest": _roi(slide.roi) if slide.roi else None,
    }
    if info:
        mpp = " × ".join(f"{mpp:.4g}" for mpp in dict.fromkeys(info.mpp))
        pairs["Pixel size"] = element("span", f"{mpp} µm ", element("small", f"from {info.mpp_source}"))
        pairs["Size"] = element(
            "span", " × ".join(f"{n:,}" for n in info.size_px), " px ", element("small", info.vendor)
        )
    pairs["Time"] = time_text(slide.seconds) if slide.seconds else None
    return definitions(pairs, "facts")


def _roi(roi: dict[str, Any]) -> Markup:
    return element("span", f"{area_text(roi['area_mm2'])} mm² ", element("small", f"of {roi['name']}"))


def _proposals(proposals: dict[str, Any]) -> Markup:
    return element("span", count_text(proposals["n_nuclei"]), " ", element("small", f"by {proposals['method']}"))


def _warnings(warnings: list[str]) -> Markup | None:
    return element("ul", *(element("li", warning) for warning in warnings), class_="warnings") if warnings else None


def _pictures(slide: SlideResult, anchor: str, album: Album) -> Markup:
    overview, fields = [], []
    if slide.finished("tissue"):
        overview.append(album.figure(slide.folder / "tissue.png", "Tissue found", _OVERVIEW_PX, anchor))
    if slide.n_nuclei:
        overview.append(album.figure(slide.folder / "density.png", "Density of nuclei", _OVERVIEW_PX, anchor))
    if slide.summary:
        for field in slide.summary["fields"]:
            caption = _field_caption(field, slide.info)
            fields.append(album.figure(slide.folder / field["picture"], caption, _OVERLAY_PX, anchor))
    rows = [_picture_row(overview, "overview"), _picture_row(fields, "fields")]
    if slide.n_nuclei and not slide.summary["has_pixels"]:
        rows.append(element("p", "No overlays: the image store was removed before they could be drawn.", class_="note"))
    return join(rows)


def _picture_row(figures: list[Markup | None], class_: str) -> Markup:
    return element("div", *figures, class_=class_) if any(figures) else Markup()


def _field_caption(field: dict[str, Any], info: SlideInfo) -> str:
    """What the field shows and where its centre lies in QuPath."""
    corner = np.subtract(field["xy_level0"], qupath_offset_px(info.bounds))
    x, y = np.round(corner + field["side_um"] / 2 / np.array(info.mpp)).astype(int)
    return f"{field['caption'].capitalize()}: {count_text(field['n_nuclei'])} nuclei around QuPath pixel {x}, {y}"


def _files(slide: SlideResult, album: Album) -> Markup:
    source = element("span", "Slide ", element("code", slide.path))
    if not slide.summary:
        return element("p", source, class_="files")
    proposals = ["proposals.geojson.gz", "proposals.parquet"] if slide.summary.get("proposals") else []
    names = ["nuclei.geojson.gz", "nuclei.parquet", *proposals, "tissue.geojson"]
    links = [
        element("a", name, href=album.link(slide.folder / name)) for name in names if (slide.folder / name).is_file()
    ]
    return element("p", source, element("br"), "Results ", join(links, " · "), class_="files")


def _steps(slide: SlideResult) -> Markup:
    head = element(
        "tr", *(element("th", name, scope="col") for name in ("Step", "End", "Time", "Peak memory", "Reason"))
    )
    rows = [
        element(
            "tr",
            element("th", record.step, scope="row"),
            element("td", record.status),
            element("td", time_text(record.seconds), class_="number"),
            element("td", memory_text(record.peak_memory_mib), class_="number"),
            element("td", record.reason),
        )
        for record in slide.progress
    ]
    return element("div", element("table", element("thead", head), element("tbody", *rows)), class_="scroll")


def _provenance(provenance: dict[str, Any]) -> Markup:
    """The card stands above, once for all slides."""
    return _said({key.replace("_", " "): value for key, value in provenance.items() if key != "card"})


def _said(value: Any) -> Markup:
    """A value of JSON: a dictionary as terms with theirs, a list of lists line by line, the rest as text."""
    if value and isinstance(value, dict):
        return definitions({key: _said(value[key]) for key in sorted(value)}, "provenance")
    if isinstance(value, list) and any(isinstance(each, list | dict) for each in value):
        return element("ul", *(element("li", _said(each)) for each in value))
    return element("code", _plain(value))


def _plain(value: Any) -> str:
    if value is None or value in ([], {}):
        return "none"
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return str(value)


def _details(summary: str, content: Markup) -> Markup:
    return element("details", element("summary", summary), content)
