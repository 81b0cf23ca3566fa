"""Warnings about slides, for the page and the last lines of a run."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple

from muse_pipeline.core.text import count_noun, some_of
from muse_pipeline.inference.trust import (
    CLASSES,
    LEAVE_OUT,
    NUCLEI,
    POSITIVE,
    REGIONS,
    RULES,
    describe_marks,
)
from muse_pipeline.report.cohort import STATUSES, SlideResult
from muse_pipeline.tissue.find import DOUBT as TISSUE_DOUBT

LEVELS = RED, AMBER = "red", "amber"  # red: numbers are missing or wrong; amber: they may be wrong


class Kind(NamedTuple):
    """The text of a finding."""

    slides: str  # text that follows the number of affected slides in the last lines of a run
    sentence: str = "{}"  # sentence on the page; "{}" is replaced by the reason


_UNLIKE = "unlike the model's training pictures"
KINDS = {
    "stain": Kind(f"{_UNLIKE}, check the result before use", f"{_UNLIKE}: {{}}"),
    "same": Kind("with the picture of another slide, which counts once"),
    "membranes": Kind("with a marker of membranes, whose nuclei are not scored"),
    "ihc": Kind("scored as immunohistochemistry; check the stain"),
    "unlike": Kind(f"{_UNLIKE}, check the result before use"),
    "scale": Kind("of doubtful scale; if the mpp is wrong, so are the results"),
    "mpp": Kind(
        "whose mpp is doubtful, check before use; if it is wrong, so are sizes and densities",
        "{}; is it right?",
    ),
    "classes": Kind("whose nuclei do not suit their classes"),
    "third_stain": Kind("without the third stain that was requested"),
    "tissue": Kind("whose tissue is doubtful, check before use", "the tissue is doubtful: {}"),
    "picture": Kind(
        "whose file has several pictures; check before use that the right one was read"
    ),
    "artefacts": Kind("with artefacts, check before use"),
    "regions": Kind("whose nuclei do not suit their regions"),
    "unmapped": Kind("without tissue regions, because mapping failed", "no tissue regions: {}"),
    "partner": Kind(
        "whose partner was not registered; a backbone is trained without their pairs",
        "partner not registered: {}",
    ),
}
# What becomes of a quantity that a finding leaves out.
CONSEQUENCES = {
    NUCLEI: "its nuclei{} are in no total",
    POSITIVE: "its positive nuclei are in no total",
    CLASSES: "the counts of its classes are in no total",
    REGIONS: "the numbers of its regions are in no total",
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
    findings = {**slide.trust.findings, "partner": slide.lacks_partner}
    return {
        kind: f"{reason}{_consequence(slide, kind)}"
        for kind in KINDS
        if (reason := findings.get(kind))
    }


def _consequence(slide: SlideResult, kind: str) -> str:
    effects = slide.trust.effects
    for quantity, text in CONSEQUENCES.items():
        if effects.get(quantity, {}).get(kind) == LEAVE_OUT:
            positive = slide.positive if slide.n_nuclei else None
            figures = f" ({positive['percent_positive']:.1f} % positive)" if positive else ""
            return f"; {text.format(figures)}"
    return ""


def find_notices(slide: SlideResult) -> list[Notice]:
    """All warnings about one slide, the red ones first."""
    notices = []
    if slide.status in ("failed", "partial"):
        where = f" in {slide.step}" if slide.step else ""
        level = RED if slide.status == "failed" else AMBER
        notices.append(Notice(level, "", f"{slide.status}{where}: {slide.reason}"))
    for kind, reason in find_reasons(slide).items():
        level = RED if LEAVE_OUT in RULES[kind] else AMBER
        notices.append(Notice(level, RULES[kind].word, KINDS[kind].sentence.format(reason)))
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


MOST_FAILURES = 4  # maximum number of lines about failed slides at the end of a run
NAMED = 3  # maximum number of slides that a line names


MOST_MARKS = 4  # maximum number of lines about what is marked for the whole run


def summarise_flags(slides: Sequence[SlideResult], most: int = 12) -> list[str]:
    """At most ``most`` lines about slides whose results need a check, by kind, with reasons if
    there is room.
    """
    by_kind: dict[str, dict[str, list[str]]] = {}
    for slide in slides:
        for kind, reason in find_reasons(slide).items():
            by_kind.setdefault(kind, {}).setdefault(reason, []).append(slide.slide_id)
    marks = describe_marks(slide.trust for slide in slides)
    if n_more := len(marks[MOST_MARKS:]):
        marks = [*marks[:MOST_MARKS], f"{n_more} more, in the report"]
    of_cohort = [f"* {line}" for line in marks]
    shown = {text.slides: by_kind[kind] for kind, text in KINDS.items() if kind in by_kind}
    return [*_listed(shown, most - len(of_cohort)), *of_cohort]


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
