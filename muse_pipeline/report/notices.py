"""Warnings about slides, for the page and the last lines of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from muse_pipeline.core.provenance import FLAGGED, NOT_KNOWN, Roi
from muse_pipeline.core.text import count_noun
from muse_pipeline.inference.doubts import OF_CLASSES, OF_NUCLEI, OF_REGIONS
from muse_pipeline.report.cohort import STATUSES, SlideResult, counted
from muse_pipeline.slides.mpp import DOUBT
from muse_pipeline.slides.pictures import SEVERAL
from muse_pipeline.tissue.third_stain import NOT_FOUND

LEVELS = RED, AMBER = "red", "amber"  # red: numbers are missing or wrong; amber: they may be wrong


class Kind(NamedTuple):
    """One kind of warning.

    Attributes:
        level: ``RED`` or ``AMBER``.
        word: short text for a pill.
        slides: text that follows the number of affected slides in the last lines of a run.
        sentence: sentence on the page; "{}" is replaced by the reason.
    """

    level: str
    word: str
    slides: str
    sentence: str = "{}"


_UNLIKE = "unlike the model's training pictures"
KINDS = {
    "stain": Kind(RED, OF_NUCLEI["stain"], f"{_UNLIKE}, check the result before use", f"{_UNLIKE}: {{}}"),
    "unlike": Kind(AMBER, "unlike training", f"{_UNLIKE}, check the result before use", f"{_UNLIKE}: {{}}"),
    "scale": Kind(
        RED,
        OF_NUCLEI["scale"],
        "of doubtful scale; if the mpp is wrong, so are the results",
    ),
    "mpp": Kind(
        AMBER,
        "check mpp",
        "whose mpp is doubtful, check before use; if it is wrong, so are sizes and densities",
        "{}; is it right?",
    ),
    "classes": Kind(RED, OF_CLASSES["classes"], "whose nuclei do not suit their classes"),
    "organ": Kind(AMBER, OF_CLASSES["organ"], "of an organ in which the classes are not validated"),
    "third_stain": Kind(AMBER, "no third stain", "without the third stain that was requested"),
    "tissue": Kind(AMBER, "check tissue", "whose tissue is doubtful, check before use", "the tissue is doubtful: {}"),
    "picture": Kind(
        AMBER, "check picture", "whose file has several pictures; check before use that the right one was read"
    ),
    "artefacts": Kind(AMBER, "artefacts", "with artefacts, check before use"),
    "regions": Kind(RED, OF_REGIONS["regions"], "whose nuclei do not suit their regions"),
    "unmapped": Kind(AMBER, "no regions", "without tissue regions, because mapping failed", "no tissue regions: {}"),
    "partner": Kind(
        AMBER,
        "no partner",
        "whose partner was not registered; a backbone is trained without their pairs",
        "partner not registered: {}",
    ),
}


class Notice(NamedTuple):
    """One warning.

    Attributes:
        level: ``RED`` or ``AMBER``.
        word: short text for a pill; "" if the pill of the status is enough.
        sentence: full text of the warning.
    """

    level: str
    word: str
    sentence: str


class ShownSlide(NamedTuple):
    """A slide on the page.

    Attributes:
        anchor: anchor of its card.
        rank: rank by status and warnings in the order of the page; slides can have the same rank.
        slide: outcome of the slide.
        notices: all warnings about it, the red ones first.
    """

    anchor: str
    rank: int
    slide: SlideResult
    notices: list[Notice]


def rank_slides(slides: Sequence[SlideResult]) -> list[ShownSlide]:
    """The slides in the order of the page: by status, failed slides first, then by level of the gravest warning."""
    found = [(slide, find_notices(slide)) for slide in slides]
    ranked = sorted(((_rank(*each), *each) for each in found), key=lambda each: each[0])
    return [ShownSlide(f"slide-{i}", *each) for i, each in enumerate(ranked, 1)]


def _rank(slide: SlideResult, notices: Sequence[Notice]) -> int:
    return 3 * STATUSES.index(slide.status) + (LEVELS.index(notices[0].level) if notices else len(LEVELS))


def find_reasons(slide: SlideResult) -> dict[str, str]:
    """The reason for each warning about a slide, with the consequence for the totals, keyed by kind as in ``KINDS``."""
    found = {kind: f"{doubt}{_consequence(slide, kind)}" for kind, doubt in slide.doubts.items()}
    if slide.appearance == FLAGGED:
        found["unlike"] = "; ".join(slide.provenance.verdict.reasons)
    warnings = slide.info.warnings if slide.info and slide.summary else ()
    of_mpp = [one for one in warnings if one.startswith(DOUBT) and one != slide.doubts.get("scale")]
    found["mpp"] = "; ".join(filter(None, [found.get("mpp"), *of_mpp]))
    found["picture"] = next((one for one in warnings if SEVERAL in one), "")
    found["third_stain"] = NOT_FOUND if NOT_FOUND in slide.warnings else ""
    found["tissue"] = slide.tissue_doubt
    found["artefacts"] = slide.artefact_doubt
    found["unmapped"] = slide.regions["reason"] if slide.regions else ""
    found["partner"] = slide.lacks_partner
    return {kind: reason for kind in KINDS if (reason := found.get(kind))}


def _consequence(slide: SlideResult, kind: str) -> str:
    if kind in slide.included:
        return ""
    if kind == "mpp":
        return "; the file of the scanner states it, so its nuclei are in the totals"
    if kind in OF_CLASSES:
        return "; the counts of its classes are in no total"
    if kind in OF_REGIONS:
        return "; the numbers of its regions are in no total"
    positive = slide.positive if slide.n_nuclei else None
    figures = f" ({positive['percent_positive']:.1f} % of them positive)" if positive else ""
    return f"; its nuclei{figures} are in no total"


def find_notices(slide: SlideResult) -> list[Notice]:
    """All warnings about one slide, the red ones first."""
    return sorted(_notices(slide), key=lambda notice: LEVELS.index(notice.level))


def _notices(slide: SlideResult) -> Iterator[Notice]:
    if slide.status in ("failed", "partial"):
        where = f" in {slide.step}" if slide.step else ""
        yield Notice(RED if slide.status == "failed" else AMBER, "", f"{slide.status}{where}: {slide.reason}")
    found = find_reasons(slide)
    if "scale" in found and "mpp" in found:
        found["scale"] += f"; {found.pop('mpp')}"
    for kind, reason in found.items():
        yield Notice(KINDS[kind].level, KINDS[kind].word, KINDS[kind].sentence.format(reason))


def summarise_flags(slides: Sequence[SlideResult], n_shown: int = 10) -> list[str]:
    """Lines about slides whose results need a check, with at most ``n_shown`` names for each reason."""
    lines: dict[str, list[str]] = {kind.slides: [] for kind in KINDS.values()}
    for slide in slides:
        for kind, reason in find_reasons(slide).items():
            lines[KINDS[kind].slides].append(f"  {slide.slide_id}: {reason}")
    lines["with the same content as another slide; all are in the totals"] = _doubled(counted(slides))
    unknown = [f"  {slide.slide_id}" for slide in slides if slide.appearance == NOT_KNOWN and slide.n_nuclei]
    lines["whose likeness to the model's training pictures is not known"] = unknown
    return [line for what, found in lines.items() for line in _listed(what, found, n_shown)]


def summarise_failures(slides: Sequence[SlideResult], n_shown: int = 10) -> list[str]:
    """Lines that name the failed slides, each with step and reason; slides whose step was not started come last."""
    failed = [slide for slide in slides if slide.status == "failed"]
    failed.sort(key=lambda slide: (slide.step, "missing") in ((each.step, each.status) for each in slide.progress))
    return _listed("failed", [f"  {slide.slide_id}: {slide.step}: {slide.reason}" for slide in failed], n_shown)


def _doubled(slides: Sequence[SlideResult]) -> list[str]:
    """A line for each slide with the same content and ROI as an earlier slide, which the line names."""
    first: dict[tuple[str, Roi | None], str] = {}
    contents = [(slide.slide_id, (slide.info.fingerprint, slide.roi)) for slide in slides if slide.info]
    return [
        f"  {name}: same as {first[content]}" for name, content in contents if first.setdefault(content, name) != name
    ]


def _listed(what: str, slides: list[str], n_shown: int) -> list[str]:
    """A heading with the number of slides, and the first lines of ``slides``; empty without slides."""
    more = f"  and {len(slides) - n_shown} more; cohort.tsv names them"
    heading = f"{count_noun(len(slides), 'slide')} {what}:"
    return [heading, *slides[:n_shown], *([more] if len(slides) > n_shown else [])] if slides else []
