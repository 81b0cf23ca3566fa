"""Warnings about slides, for the page and the last lines of a run."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter, itemgetter
from typing import NamedTuple

from muse_pipeline.core.text import count_noun, some_of
from muse_pipeline.inference.trust import LEAVE_OUT, OF_RUN, RULES, TEXTS, describe_marks
from muse_pipeline.report.cohort import STATUSES, SlideResult

LEVELS = RED, AMBER = "red", "amber"  # red: numbers are missing or wrong; amber: they may be wrong
MOST_FAILURES = 4  # maximum number of lines about failed slides at the end of a run
MOST_MARKS = 4  # maximum number of lines about what is marked for the whole run
NAMED = 3  # maximum number of slides that a line names


class Notice(NamedTuple):
    """One warning."""

    level: str  # ``RED`` or ``AMBER``
    kind: str  # the finding, a key of ``RULES``; "" for a status
    sentence: str  # full text of the warning

    @property
    def word(self) -> str:
        """Short text for a pill; "" if the pill of the status is enough."""
        return RULES[self.kind].word if self.kind else ""


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


def find_notices(slide: SlideResult) -> list[Notice]:
    """All warnings about one slide with the consequence for the totals, the red ones first."""
    notices = []
    if slide.status in ("failed", "partial"):
        where = f" in {slide.step}" if slide.step else ""
        level = RED if slide.status == "failed" else AMBER
        notices.append(Notice(level, "", f"{slide.status}{where}: {slide.reason}"))
    effects = slide.trust.effects
    for kind, reason in slide.trust.findings.items():
        if kind in OF_RUN or (kind == "gaps" and slide.status == "partial"):
            continue
        out = [text for name, text in TEXTS.items() if effects.get(name, {}).get(kind) == LEAVE_OUT]
        sentence = f"{reason}; its {out[0]} are in no total" if out else reason
        notices.append(Notice(RED if out else AMBER, kind, sentence))
    return sorted(notices, key=lambda notice: LEVELS.index(notice.level))


def list_warnings(slide: SlideResult, notices: Sequence[Notice]) -> list[str]:
    """The sentences of the notices about a slide, then the warnings of its steps that no notice
    repeats.
    """
    sentences = [notice.sentence for notice in notices if notice.kind]
    repeated = " ".join(sentences)
    return [*sentences, *(warning for warning in slide.warnings if warning not in repeated)]


def summarise_flags(slides: Sequence[SlideResult], most: int = 12) -> list[str]:
    """At most ``most`` lines about slides whose results need a check, by finding, with reasons if
    there is room.
    """
    found = {}
    for slide in slides:
        for notice in filter(attrgetter("kind"), find_notices(slide)):
            of_kind = found.setdefault(notice.kind, {})
            of_kind.setdefault(notice.sentence, []).append(slide.slide_id)
    marks = [f"* {line}" for line in describe_marks(slide.trust for slide in slides)]
    if n_more := len(marks[MOST_MARKS:]):
        marks[MOST_MARKS:] = [f"* {n_more} more, in the report"]
    headings = {
        f"{rule.word} ({count_noun(sum(map(len, own.values())), 'slide')}; {rule.remedy}):": own
        for kind, rule in RULES.items()
        if (own := found.get(kind))
    }
    lines = [line for heading, reasons in headings.items() for line in _list(heading, reasons)]
    if len(lines) + len(marks) > most:
        lines = [
            f"{heading} {some_of([name for own in reasons.values() for name in own], NAMED)}"
            for heading, reasons in headings.items()
        ]
    return [*_at_most(lines, most - len(marks), "and {} more kinds, in the report"), *marks]


def _list(heading: str, reasons: dict[str, list[str]]) -> list[str]:
    """A heading, and a line with names of slides for each reason."""
    return [heading, *(f"  {some_of(names, NAMED)}: {reason}" for reason, names in reasons.items())]


def summarise_failures(slides: Sequence[SlideResult]) -> list[str]:
    """At most ``MOST_FAILURES`` lines that name failed slides, each with step and reason, not
    started ones last.
    """
    failed = [slide for slide in slides if slide.status == "failed"]
    if not failed:
        return []
    failed.sort(key=lambda s: any((s.step, "missing") == (e.step, e.status) for e in s.progress))
    reasons = {}
    for slide in failed:
        reasons.setdefault(f"{slide.step}: {slide.reason}", []).append(slide.slide_id)
    lines = _list(f"{count_noun(len(failed), 'slide')} failed:", reasons)
    return _at_most(lines, MOST_FAILURES, "  and {} more; cohort.tsv has them")


def _at_most(lines: list[str], most: int, rest: str) -> list[str]:
    """The lines, or the first of them and how many more there are."""
    n_more = len(lines) - most + 1
    return [*lines[: most - 1], rest.format(n_more)] if n_more > 1 else lines
