"""Warnings about a slide for the reader of its numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from muse_pipeline.inference.appearance import OTHER_STAIN
from muse_pipeline.report.cohort import STATUSES, SlideResult, describe_doubt, doubtful_mpp, flagged

LEVELS = RED, AMBER = "red", "amber"  # there are no numbers, or they are wrong; they may be


class Notice(NamedTuple):
    """One warning.

    Attributes:
        level: ``RED`` or ``AMBER``.
        word: for a pill; "" where the pill of the status has it.
        sentence: the whole of it.
    """

    level: str
    word: str
    sentence: str


def find_notices(slide: SlideResult) -> list[Notice]:
    """All of one slide, the red ones first."""
    return sorted(_notices(slide), key=lambda notice: LEVELS.index(notice.level))


def rank(slide: SlideResult) -> int:
    """Where a slide stands among others: failed, partial, empty, ok, and among these red, amber, neither."""
    notices = find_notices(slide)
    return 3 * STATUSES.index(slide.status) + (LEVELS.index(notices[0].level) if notices else len(LEVELS))


def _notices(slide: SlideResult) -> Iterator[Notice]:
    if slide.status in ("failed", "partial"):
        where = f" in {slide.step}" if slide.step else ""
        yield Notice(RED if slide.status == "failed" else AMBER, "", f"{slide.status}{where}: {slide.reason}")
    if flagged([slide]):
        level, word = (RED, "other stain") if slide.appearance == OTHER_STAIN else (AMBER, "unlike training")
        yield Notice(level, word, f"unlike the model's training pictures: {describe_doubt(slide)}")
    if slide.tissue_doubt:
        yield Notice(AMBER, "check tissue", f"the tissue is doubtful: {slide.tissue_doubt}")
    if slide.artefact_doubt:
        yield Notice(AMBER, "artefacts", slide.artefact_doubt)
    if slide.lacks_regions:
        yield Notice(AMBER, "no regions", f"no tissue regions: {slide.lacks_regions}")
    if slide.lacks_partner:
        yield Notice(AMBER, "no partner", f"partner not registered: {slide.lacks_partner}")
    doubt_of_mpp = doubtful_mpp(slide)
    if slide.size_doubt:
        yield Notice(RED, "doubtful scale", "; ".join(filter(None, [slide.size_doubt, doubt_of_mpp])))
    elif doubt_of_mpp:
        yield Notice(AMBER, "check mpp", f"{doubt_of_mpp}; is it right?")
