"""The content of the card of one slide on the page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import yaml

from muse_pipeline.core.coords import qupath_offset_px
from muse_pipeline.core.provenance import Provenance
from muse_pipeline.core.text import count_noun
from muse_pipeline.core.types import ARTEFACTS
from muse_pipeline.inference import stains
from muse_pipeline.inference.counts import n_in_artefacts, score
from muse_pipeline.inference.trust import (
    CLASSES,
    LEAVE_OUT,
    MARK,
    NUCLEI,
    OF_ORGAN,
    POSITIVE,
    RULES,
    TEXTS,
    join_marks,
)
from muse_pipeline.report.album import Album
from muse_pipeline.report.cohort import SlideResult, class_names
from muse_pipeline.report.density import WHOLE
from muse_pipeline.report.notices import RED, ShownSlide, list_warnings

_OVERVIEW_PX, _OVERLAY_PX = 640, 1068


def describe_card(shown: ShownSlide, album: Album) -> dict[str, Any]:
    """The content of ``templates/slide_card.html``: all facts about a slide, its pictures, warnings
    and files.
    """
    slide = shown.slide
    files = shown.slide.files
    summary = shown.slide.summary or {}
    counts = (summary.get("intensities") or {}).get("slide", {})
    hidden = "nucleus" if slide.trust.left_out(POSITIVE) else ""
    red = [one.sentence for one in shown.notices if one.level == RED and one.kind]
    results = files.geojson, files.nuclei, files.region_outlines, files.artefacts, files.outline
    names = class_names([slide])
    has_viewer = summary and files.viewer.is_file()
    return {
        **shown._asdict(),
        "use": describe_use(slide),
        "marks": join_marks([slide.trust]),
        "scores": {n: score(c) for n, c in counts.items() if n != hidden and sum(c)},
        "artefacts": _artefacts(slide) if summary else "",
        "classes": _bar_of(slide) if summary else [],
        "class_names": names,
        "densities": [f"{name}/mm²" for name in names],
        "warnings": {
            "red": red,
            "amber": [text for text in list_warnings(slide, shown.notices) if text not in red],
        },
        "overview": list(filter(None, _overview(slide, album))),
        "fields": list(filter(None, _fields(slide, album))),
        "viewer": album.link(files.viewer) if has_viewer else "",
        "files": {path.name: album.link(path) for path in results if summary and path.is_file()},
        "provenance": _provenance_text(slide.provenance) if summary else "",
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
    is_partial = slide.status == "partial"
    numbers = "Densities and percentages, but no counts," if is_partial else "Counts and outlines"
    unused = [TEXTS[name] for name in (POSITIVE, CLASSES) if trust.left_out(name)]
    unused += ["classes"] if slide.positive else []
    kinds = [kind for kind in trust.kinds(NUCLEI, MARK) if kind != "gaps"]
    checks = " and ".join(dict.fromkeys(RULES[kind].remedy for kind in kinds))
    parts = [
        f"{numbers} may be used",
        checks and f"first {checks}",
        unused and f"{' and '.join(unused)} may not",
        *(
            f"{', '.join(names)}: {trust.findings[kind]}"
            for kind in OF_ORGAN
            if (names := trust.classes_with(kind))
        ),
    ]
    return f"{'; '.join(filter(None, parts))}."


def _artefacts(slide: SlideResult) -> str:
    """Notes on artefacts: kinds that were not judged, and nuclei that totals leave out."""
    quality = slide.provenance.quality
    if quality is None or not quality.area_mm2:
        return "because the stain is different" if quality else ""
    n_left_out = slide.provenance.n_left_out
    left_out_mm2 = slide.provenance.left_out_mm2
    share = left_out_mm2 and 100 * left_out_mm2 / (slide.tissue_mm2 + left_out_mm2)
    n_kept = n_in_artefacts(quality) - n_left_out
    notes = [
        ""
        if ARTEFACTS[0] in quality.area_mm2
        else "focus not judged, because the slide is too coarse",
        share and f"{share:.1f} % of the tissue, {_nuclei(n_left_out)} left out",
        n_kept and f"{_nuclei(n_kept)} in artefacts counted",
    ]
    return "; ".join(filter(None, notes))


def _nuclei(n: int) -> str:
    return count_noun(n, "nucleus", "nuclei")


def _bar_of(slide: SlideResult) -> list[dict[str, Any]]:
    """Classes of the bar; negative and positive nuclei for immunohistochemistry, where classes are
    meaningless.
    """
    if slide.positive is None:
        return slide.summary["classes"]
    counts = slide.positive["n_negative"], slide.positive["n_positive"]
    pairs = zip(stains.CLASSES, counts, strict=True)
    return [{"name": kind.name, "color": kind.color, "n_nuclei": n} for kind, n in pairs]


def _overview(slide: SlideResult, album: Album) -> Iterator[dict[str, Any] | None]:
    """Pictures of the whole slide."""
    if any(record.step == "tissue" and record.status == "ok" for record in slide.progress):
        yield album.figure(slide.files.picture, "Tissue found", _OVERVIEW_PX)
    if slide.regions and slide.files.region_picture.is_file():
        yield album.figure(slide.files.region_picture, "Tissue regions", _OVERVIEW_PX)
    if slide.n_nuclei:
        quality = slide.provenance.quality
        has_artefacts = quality and any(quality.area_mm2.values())
        caption = "Density of nuclei, artefacts outlined" if has_artefacts else "Density of nuclei"
        yield album.figure(slide.files.density, caption, _OVERVIEW_PX)


def _fields(slide: SlideResult, album: Album) -> Iterator[dict[str, Any] | None]:
    """Pictures of fields, with the position of their centre in QuPath unless a field is the whole
    slide.
    """
    for field in slide.summary["fields"] if slide.summary else ():
        caption = f"{field['caption'].capitalize()}: {_nuclei(field['n_nuclei'])}"
        if field["caption"] != WHOLE:
            corner = np.subtract(field["xy_level0"], qupath_offset_px(slide.info.bounds))
            x, y = np.round(corner + np.array(field["size_um"]) / 2 / slide.info.mpp).astype(int)
            caption += f" around QuPath pixel {x}, {y}"
        yield album.figure(slide.folder / field["picture"], caption, _OVERLAY_PX)


def _provenance_text(provenance: Provenance) -> str:
    """A slide's provenance as YAML, without the card of the model, which the page shows once."""
    values = {key: value for key, value in provenance.to_dict().items() if key != "card"}
    # The C version is much faster on thousands of slides.
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return yaml.dump(values, Dumper=dumper, default_flow_style=None, allow_unicode=True, width=100)


def add_up(summaries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The classes in ``summaries``, with the nuclei of all slides added up."""
    total = {}
    for entry in chain.from_iterable(summary["classes"] for summary in summaries):
        of_class = total.setdefault(entry["name"], {**entry, "n_nuclei": 0})
        of_class["n_nuclei"] += entry["n_nuclei"]
    return list(total.values())
