"""The content of the card of one slide on the page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import yaml

from muse_pipeline.core.coords import qupath_offset_px
from muse_pipeline.core.provenance import Provenance
from muse_pipeline.core.text import area_text, count_noun
from muse_pipeline.core.types import SlideInfo
from muse_pipeline.inference import stains
from muse_pipeline.inference.trust import (
    CLASSES,
    LEAVE_OUT,
    MARK,
    NUCLEI,
    OF_ORGAN,
    POSITIVE,
    RULES,
    join_marks,
)
from muse_pipeline.report.album import Album
from muse_pipeline.report.cohort import SlideResult, class_names
from muse_pipeline.report.counts import COMPARTMENTS, score
from muse_pipeline.report.density import WHOLE
from muse_pipeline.report.notices import RED, ShownSlide, list_warnings

_OVERVIEW_PX, _OVERLAY_PX = 640, 1068


def describe_card(shown: ShownSlide, album: Album) -> dict[str, Any]:
    """The content of ``templates/slide_card.html``: all facts about a slide, its pictures, warnings
    and files.
    """
    slide = shown.slide
    names = class_names([slide])
    artefacts, left_out = _artefacts(slide)
    counts = slide.intensities["slide"] if slide.intensities else {}
    if slide.trust.left_out(POSITIVE):
        counts = {name: n for name, n in counts.items() if name != "nucleus"}
    scores = {name: score(counts[name]) for name in COMPARTMENTS if sum(counts.get(name, ()))}
    fields = slide.summary["fields"] if slide.summary else ()
    pictures = (
        album.figure(
            slide.folder / field["picture"], _field_caption(field, slide.info), _OVERLAY_PX
        )
        for field in fields
    )
    return {
        **shown._asdict(),
        "use": describe_use(slide),
        "marks": join_marks([slide.trust]),
        "mpp": (
            " × ".join(f"{mpp:.4g}" for mpp in dict.fromkeys(slide.info.mpp)) if slide.info else ""
        ),
        "scores": "; ".join(
            f"{name} {s['percent_positive']:.0f} % positive, H-score {s['h_score']:.0f}, Allred"
            f" {s['allred']}"
            for name, s in scores.items()
        ),
        "tma": slide.summary.get("tma") if slide.summary else None,
        "artefacts": artefacts,
        "left_out": left_out,
        "classes": _bar_of(slide) if slide.summary else [],
        "class_names": names,
        "densities": [f"{name}/mm²" for name in names],
        "warnings": list(_warnings(shown)),
        "overview": list(filter(None, _overview(slide, album))),
        "fields": list(filter(None, pictures)),
        **_files(slide, album),
        "provenance": _provenance_text(slide.provenance) if slide.provenance else "",
    }


def describe_use(slide: SlideResult) -> str:
    """Describe which numbers of a slide can be used, and after which checks."""
    trust = slide.trust
    if not slide.summary:
        return "No number of this slide may be used."
    if kinds := trust.kinds(NUCLEI, LEAVE_OUT):
        return f"No number may be used: {trust.left_out(NUCLEI)}; {RULES[kinds[0]].remedy}."
    if not slide.n_nuclei:
        return "No nucleus was found; look at the picture of the tissue before you rely on that."
    is_scored = slide.positive and not trust.left_out(POSITIVE)
    numbers = "Counts of positive and negative nuclei" if is_scored else "Counts and outlines"
    if slide.status == "partial":
        numbers = "Densities and percentages, but no counts,"
    kinds = [kind for kind in trust.kinds(NUCLEI, MARK) if kind != "gaps"]
    checks = " and ".join(dict.fromkeys(RULES[kind].remedy for kind in kinds))
    after = f"; first {checks}" if checks else ""
    unused = ["positive nuclei"] if trust.left_out(POSITIVE) else []
    unused += ["classes"] if slide.positive or trust.left_out(CLASSES) else []
    classes = f"; {' and '.join(unused)} may not" if unused else ""
    for kind in OF_ORGAN:
        if names := trust.classes_with(kind):
            classes += f"; {', '.join(names)}: {trust.findings[kind]}"
    return f"{numbers} may be used{after}{classes}."


def _artefacts(slide: SlideResult) -> tuple[str, str]:
    """Area and percentage of the tissue for each kind of artefact, and what is not judged or left
    out of totals.
    """
    if slide.artefacts_mm2 is None:
        return slide.unjudged, ""
    whole = slide.processed_mm2
    areas = [
        f"{area_text(mm2)} mm² {kind} ({100 * mm2 / whole:.1f} %)"
        for kind, mm2 in slide.artefacts_mm2.items()
        if mm2
    ]
    n, share = slide.n_left_out, 100 * slide.left_out_mm2 / whole if whole else 0.0
    left_out = (
        f"{share:.1f} % of the tissue, {count_noun(n, 'nucleus', 'nuclei')} left out"
        if share
        else ""
    )
    n_kept = slide.n_in_artefacts - n
    kept = f"{count_noun(n_kept, 'nucleus', 'nuclei')} in artefacts counted" if n_kept else ""
    return ", ".join(areas) or "none", "; ".join(filter(None, [slide.unjudged, left_out, kept]))


def _bar_of(slide: SlideResult) -> list[dict[str, Any]]:
    """Classes of the bar; negative and positive nuclei for immunohistochemistry, where classes are
    meaningless.
    """
    if slide.positive is None:
        return slide.summary["classes"]
    counts = slide.positive["n_negative"], slide.positive["n_positive"]
    pairs = zip(stains.CLASSES, counts, strict=True)
    return [{"name": kind.name, "color": kind.color, "n_nuclei": n} for kind, n in pairs]


def _warnings(shown: ShownSlide) -> Iterator[tuple[str, list[str]]]:
    """Yield the warnings in two boxes: red ones, then all others with those of the steps."""
    red = [one.sentence for one in shown.notices if one.level == RED and one.word]
    amber = [text for text in list_warnings(shown.slide) if text not in red]
    yield from ((level, texts) for level, texts in (("red", red), ("amber", amber)) if texts)


def _overview(slide: SlideResult, album: Album) -> Iterator[dict[str, Any] | None]:
    """Pictures of the whole slide."""
    if any(record.step == "tissue" and record.status == "ok" for record in slide.progress):
        yield album.figure(slide.files.picture, "Tissue found", _OVERVIEW_PX)
    if slide.regions and slide.files.region_picture.is_file():
        yield album.figure(slide.files.region_picture, "Tissue regions", _OVERVIEW_PX)
    if slide.n_nuclei:
        has_artefacts = any((slide.artefacts_mm2 or {}).values())
        caption = "Density of nuclei, artefacts outlined" if has_artefacts else "Density of nuclei"
        yield album.figure(slide.files.density, caption, _OVERVIEW_PX)


def _field_caption(field: dict[str, Any], info: SlideInfo) -> str:
    """Content of the field and, if that is not the whole slide, the position of its centre in
    QuPath.
    """
    what = f"{field['caption'].capitalize()}: {count_noun(field['n_nuclei'], 'nucleus', 'nuclei')}"
    if field["caption"] == WHOLE:
        return what
    corner = np.subtract(field["xy_level0"], qupath_offset_px(info.bounds))
    x, y = np.round(corner + np.array(field["size_um"]) / 2 / info.mpp).astype(int)
    return f"{what} around QuPath pixel {x}, {y}"


def _files(slide: SlideResult, album: Album) -> dict[str, Any]:
    """Viewer and result files, each with its address."""
    files = slide.files
    regions = [files.region_outlines] if slide.regions else []
    artefacts = [files.artefacts] if slide.artefacts_mm2 else []
    results = (
        [files.geojson, files.nuclei, *regions, *artefacts, files.outline] if slide.summary else []
    )
    return {
        "viewer": album.link(files.viewer) if slide.summary and files.viewer.is_file() else "",
        "files": [(path.name, album.link(path)) for path in results if path.is_file()],
    }


def _provenance_text(provenance: Provenance) -> str:
    """A slide's provenance as YAML, without the card of the model, which the page shows once."""
    values = {key: value for key, value in provenance.to_dict().items() if key != "card"}
    dumper = getattr(
        yaml, "CSafeDumper", yaml.SafeDumper
    )  # the C version is much faster on thousands of slides
    return yaml.dump(values, Dumper=dumper, default_flow_style=None, allow_unicode=True, width=100)


def add_up(summaries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The classes in ``summaries``, with the nuclei of all slides added up."""
    total: dict[str, dict[str, Any]] = {}
    for summary in summaries:
        for entry in summary["classes"]:
            total.setdefault(entry["name"], {**entry, "n_nuclei": 0})["n_nuclei"] += entry[
                "n_nuclei"
            ]
    return list(total.values())
