"""Warnings about slides, for the page and the last lines of a run."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple

from muse_pipeline.core.provenance import FLAGGED, NO_BROWN, NOT_KNOWN, STATED_IHC, Roi
from muse_pipeline.core.specimen import IHC, name_organ
from muse_pipeline.core.text import count_noun, some_of
from muse_pipeline.inference.doubts import (
    OF_CLASSES,
    OF_NUCLEI,
    OF_REGIONS,
    describe_organs,
    name_unvalidated,
)
from muse_pipeline.report.cohort import STATUSES, SlideResult, counted
from muse_pipeline.slides.mpp import DOUBT
from muse_pipeline.slides.tiff_pictures import SEVERAL
from muse_pipeline.tissue.find import DOUBT as TISSUE_DOUBT
from muse_pipeline.tissue.stain import NOT_FOUND

MUCH_POSITIVE = 10.0  # percentage of positive nuclei above which their brown would be recognised
LEVELS = RED, AMBER = "red", "amber"  # red: numbers are missing or wrong; amber: they may be wrong


class Kind(NamedTuple):
    """One kind of warning."""

    level: str  # ``RED`` or ``AMBER``
    word: str  # short text for a pill
    slides: str  # text that follows the number of affected slides in the last lines of a run
    sentence: str = "{}"  # sentence on the page; "{}" is replaced by the reason


_UNLIKE = "unlike the model's training pictures"
KINDS = {
    "stain": Kind(
        RED, OF_NUCLEI["stain"], f"{_UNLIKE}, check the result before use", f"{_UNLIKE}: {{}}"
    ),
    "ihc": Kind(
        AMBER,
        "check stain",
        "of immunohistochemistry by colours or statement alone; check the stain",
    ),
    "unlike": Kind(
        AMBER, "unlike training", f"{_UNLIKE}, check the result before use", f"{_UNLIKE}: {{}}"
    ),
    "scale": Kind(
        RED, OF_NUCLEI["scale"], "of doubtful scale; if the mpp is wrong, so are the results"
    ),
    "mpp": Kind(
        AMBER,
        "check mpp",
        "whose mpp is doubtful, check before use; if it is wrong, so are sizes and densities",
        "{}; is it right?",
    ),
    "classes": Kind(RED, OF_CLASSES["classes"], "whose nuclei do not suit their classes"),
    "organ": Kind(AMBER, OF_CLASSES["organ"], "of {}, in which {} are not validated"),
    "third_stain": Kind(AMBER, "no third stain", "without the third stain that was requested"),
    "tissue": Kind(
        AMBER,
        "check tissue",
        "whose tissue is doubtful, check before use",
        "the tissue is doubtful: {}",
    ),
    "picture": Kind(
        AMBER,
        "check picture",
        "whose file has several pictures; check before use that the right one was read",
    ),
    "artefacts": Kind(AMBER, "artefacts", "with artefacts, check before use"),
    "regions": Kind(RED, OF_REGIONS["regions"], "whose nuclei do not suit their regions"),
    "unmapped": Kind(
        AMBER,
        "no regions",
        "without tissue regions, because mapping failed",
        "no tissue regions: {}",
    ),
    "partner": Kind(
        AMBER,
        "no partner",
        "whose partner was not registered; a backbone is trained without their pairs",
        "partner not registered: {}",
    ),
}


class Notice(NamedTuple):
    """One warning."""

    level: str  # ``RED`` or ``AMBER``
    word: str  # short text for a pill; "" if the pill of the status is enough
    sentence: str  # full text of the warning


class ShownSlide(NamedTuple):
    """A slide on the page."""

    anchor: str  # anchor of its card
    rank: int  # rank by status and warnings in the order of the page; slides can have the same rank
    slide: SlideResult  # outcome of the slide
    notices: list[Notice]  # all warnings about it, the red ones first


def rank_slides(slides: Sequence[SlideResult]) -> list[ShownSlide]:
    """The slides in the order of the page: by status, failed slides first, then by level of the
    gravest warning.
    """
    entries = []
    for slide in slides:
        notices = find_notices(slide)
        level = LEVELS.index(notices[0].level) if notices else len(LEVELS)
        entries.append((3 * STATUSES.index(slide.status) + level, slide, notices))
    entries.sort(key=itemgetter(0))
    return [ShownSlide(f"slide-{i}", *entry) for i, entry in enumerate(entries, 1)]


def find_reasons(slide: SlideResult) -> dict[str, str]:
    """The reason for each warning about a slide, with the consequence for the totals, keyed by kind
    as in ``KINDS``.
    """
    reasons = {kind: f"{doubt}{_consequence(slide, kind)}" for kind, doubt in slide.doubts.items()}
    warnings = slide.info.warnings if slide.info and slide.summary else ()
    of_mpp = [
        warning
        for warning in warnings
        if warning.startswith(DOUBT) and warning != slide.doubts.get("scale")
    ]
    reasons |= {
        "ihc": _doubt_ihc(slide) if slide.stain == IHC else "",
        "unlike": (
            "; ".join(slide.provenance.verdict.reasons) if slide.appearance == FLAGGED else ""
        ),
        "mpp": "; ".join(filter(None, [reasons.get("mpp"), *of_mpp])),
        "picture": next((warning for warning in warnings if SEVERAL in warning), ""),
        "third_stain": NOT_FOUND if NOT_FOUND in slide.warnings else "",
        "tissue": slide.tissue_doubt,
        "artefacts": slide.artefact_doubt,
        "unmapped": slide.regions["reason"] if slide.regions else "",
        "partner": slide.lacks_partner,
    }
    return {kind: reason for kind in KINDS if (reason := reasons.get(kind))}


def _doubt_ihc(slide: SlideResult) -> str:
    """The reason to check that a slide is immunohistochemistry; "" if colours and statement
    agree.
    """
    reasons, percent = slide.provenance.verdict.reasons, slide.positive["percent_positive"] or 0
    if STATED_IHC not in reasons:
        return (
            f"{', '.join(reasons)}: nuclei are scored as positive or negative; state the stain in"
            " the sheet"
        )
    if NO_BROWN in reasons and percent >= MUCH_POSITIVE:
        return (
            f"stated as immunohistochemistry, but the {percent:.0f} % positive nuclei are not"
            " brown; is it H&E?"
        )
    return ""


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
    notices = []
    if slide.status in ("failed", "partial"):
        where = f" in {slide.step}" if slide.step else ""
        level = RED if slide.status == "failed" else AMBER
        notices.append(Notice(level, "", f"{slide.status}{where}: {slide.reason}"))
    reasons = find_reasons(slide)
    if "scale" in reasons and "mpp" in reasons:
        reasons["scale"] += f"; {reasons.pop('mpp')}"
    for name, reason in reasons.items():
        kind = KINDS[name]
        notices.append(Notice(kind.level, kind.word, kind.sentence.format(reason)))
    return sorted(notices, key=lambda notice: LEVELS.index(notice.level))


def list_warnings(slide: SlideResult) -> list[str]:
    """The sentences of all notices about a slide, then the warnings of its steps that no notice
    repeats.
    """
    sentences = [notice.sentence for notice in find_notices(slide) if notice.word]
    plain = [(warning, warning.removeprefix(TISSUE_DOUBT)) for warning in slide.warnings]
    return [
        *sentences,
        *(
            warning
            for warning, text in plain
            if not any(text in sentence for sentence in sentences)
        ),
    ]


def describe_unknown_organs(slides: Sequence[SlideResult]) -> str:
    """A sentence about the slides whose organ is not stated, for the whole run; "" if there are
    none.
    """
    lacking = [slide for slide in slides if slide.lacks_organ and "organ" not in slide.included]
    if not lacking:
        return ""
    provenances = {slide.model.name: slide.provenance for slide in lacking}
    models = [
        f"{name} is validated in {describe_organs(model.organs)}"
        for name, model in provenances.items()
    ]
    return (
        f"{count_noun(len(lacking), 'slide')}: classes not validated for an unknown organ;"
        f" {'; '.join(models)}; state the organ with --organ or in the sheet"
    )


MOST_FAILURES = 4  # maximum number of lines about failed slides at the end of a run
NAMED = 3  # maximum number of slides that a line names


def summarise_flags(slides: Sequence[SlideResult], most: int = 12) -> list[str]:
    """At most ``most`` lines about slides whose results need a check, by kind, with reasons if
    there is room.
    """
    by_kind: dict[str, dict[str, list[str]]] = {}
    reasons_of = [(slide, find_reasons(slide)) for slide in slides]
    for kind, texts in KINDS.items():
        for slide, reason in (
            (slide, reasons[kind]) for slide, reasons in reasons_of if kind in reasons
        ):
            what, why = texts.slides, reason
            if kind == "organ":  # a line per organ, which needs no reasons
                names = name_unvalidated(slide.provenance, slide.organ)
                what, why = what.format(name_organ(slide.organ), names), ""
            by_kind.setdefault(what, {}).setdefault(why, []).append(slide.slide_id)
    doubled = _doubled([*counted(slides), *counted(slides, IHC)])
    by_kind["with the same content as another slide; all are in the totals"] = doubled
    unknown = [
        slide.slide_id for slide in slides if slide.appearance == NOT_KNOWN and slide.n_nuclei
    ]
    by_kind["whose likeness to the model's training pictures is not known"] = (
        {"": unknown} if unknown else {}
    )
    of_organs = list(filter(None, [describe_unknown_organs(slides)]))
    return [
        *_listed({what: why for what, why in by_kind.items() if why}, most - len(of_organs)),
        *of_organs,
    ]


def summarise_failures(slides: Sequence[SlideResult]) -> list[str]:
    """At most ``MOST_FAILURES`` lines that name failed slides, each with step and reason, not
    started ones last.
    """
    failed = [slide for slide in slides if slide.status == "failed"]
    failed.sort(
        key=lambda slide: any(
            (slide.step, "missing") == (end.step, end.status) for end in slide.progress
        )
    )
    reasons: dict[str, list[str]] = {}
    for slide in failed:
        reasons.setdefault(f"{slide.step}: {slide.reason}", []).append(slide.slide_id)
    lines = _lines_of_kind("failed", reasons) if reasons else []
    n_more = len(lines) - MOST_FAILURES
    return (
        [*lines[: MOST_FAILURES - 1], f"  and {n_more + 1} more; cohort.tsv has them"]
        if n_more > 0
        else lines
    )


def _doubled(slides: Sequence[SlideResult]) -> dict[str, list[str]]:
    """Slides with the same content and ROI as an earlier slide, keyed by a text that names the
    earlier one.
    """
    first: dict[tuple[str, Roi | None], str] = {}
    same: dict[str, list[str]] = {}
    for slide in (slide for slide in slides if slide.info):
        earlier = first.setdefault((slide.info.fingerprint, slide.roi), slide.slide_id)
        if earlier != slide.slide_id:
            same.setdefault(f"same as {earlier}", []).append(slide.slide_id)
    return same


def _listed(kinds: dict[str, dict[str, list[str]]], most: int) -> list[str]:
    """Lines for slides by kind of warning and reason: with the reasons if there are at most
    ``most`` lines.
    """
    lines = [line for what, reasons in kinds.items() for line in _lines_of_kind(what, reasons)]
    if len(lines) > most:
        names = {
            what: [name for slides in reasons.values() for name in slides]
            for what, reasons in kinds.items()
        }
        lines = [
            line for what, slides in names.items() for line in _lines_of_kind(what, {"": slides})
        ]
    n_more = len(lines) - most
    return (
        [*lines[: most - 1], f"and {n_more + 1} more kinds of warnings, in the report"]
        if n_more > 0
        else lines
    )


def _lines_of_kind(what: str, reasons: dict[str, list[str]]) -> list[str]:
    """A line with the number of slides, and a line for each reason; without reasons, one line with
    names of slides.
    """
    heading = f"{count_noun(sum(map(len, reasons.values())), 'slide')} {what}:"
    if list(reasons) == [""]:
        return [f"{heading} {some_of(reasons[''], NAMED)}"]
    return [heading, *(f"  {some_of(names, NAMED)}: {reason}" for reason, names in reasons.items())]
