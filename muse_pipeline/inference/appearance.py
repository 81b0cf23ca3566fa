"""Comparison of a slide with the pictures that a model was trained on, to find results that cannot be trusted.

Every measure of ``tissue.colour`` has a range over the training pictures, in the model's card. A slide outside it by
more than a margin is flagged, with the reason in words; one that is brown where training was not, or dark, is of
another stain, and its nuclei are in no total of the cohort. No step fails for it. docs/guide/confidence.md has the
rate at which pictures of an unseen site are flagged, and the limits of the check.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from muse_pipeline.core.provenance import DARK, FLAGGED, NOT_KNOWN, OK, OTHER_STAIN, Verdict
from muse_pipeline.inference.card import AppearanceReference
from muse_pipeline.tissue.colour import SlideColour

PERCENTILES = (1, 50, 99)
BROWN = "brown, as immunohistochemistry is"


class Measure(NamedTuple):
    """The criterion of one measure.

    Attributes:
        margin: tolerated distance beyond the range of the training pictures, in the measure's own unit.
        below: meaning of a value below the range, in words; "" if it has none.
        above: meaning of a value above the range, in words; "" if it has none.
    """

    margin: float
    below: str
    above: str


# The margins: from how far pictures of one site lie beyond the range of two others (docs/guide/confidence.md).
STAINS = {
    "brown": Measure(0.01, "", BROWN),
    "foreign": Measure(0.1, "", "colours that haematoxylin and eosin do not give"),
    "tissue red": Measure(0.2, "tissue redder", "tissue bluer"),
    "tissue blue": Measure(0.2, "tissue more violet", "tissue more yellow or brown"),
    "nuclei red": Measure(0.2, "nuclei redder", "nuclei bluer"),
    "nuclei blue": Measure(0.2, "nuclei more violet", "nuclei more yellow or brown"),
    "tissue density": Measure(0.5, "tissue paler", "tissue darker"),
    "nuclei density": Measure(0.5, "nuclei paler", "nuclei darker"),
    "haematoxylin red": Measure(0.1, "haematoxylin redder", "haematoxylin bluer"),
    "haematoxylin blue": Measure(0.1, "haematoxylin more violet", "haematoxylin more grey or brown"),
    "haematoxylin strength": Measure(0.5, "haematoxylin weaker", "haematoxylin stronger"),
    "eosin red": Measure(0.1, "eosin redder", "eosin bluer"),
    "eosin blue": Measure(0.1, "eosin more violet", "eosin more yellow or brown"),
    "eosin strength": Measure(0.5, "eosin weaker", "eosin stronger"),
}
FOCUS = {"sharpness": Measure(0.5, "out of focus", "")}
TISSUE = {"contrast": Measure(0.5, "less structure", "more structure")}


def describe_training(measured: Sequence[dict[str, float]]) -> AppearanceReference | None:
    """The reference, from the measures of ``tissue.colour`` of each training picture; None without pictures."""
    names = sorted({name for one in measured for name in one})
    values = {name: [one[name] for one in measured if name in one] for name in names}
    ranges = {
        name: tuple(np.percentile(found, PERCENTILES).round(4).tolist()) for name, found in values.items() if found
    }
    return AppearanceReference(len(measured), ranges) if ranges else None


def merge_references(*references: AppearanceReference | None) -> AppearanceReference | None:
    """The reference of a model that was trained on the pictures of all: the widest range of each measure.

    Medians are averaged, weighted by the numbers of pictures, which are added up: a picture that two of them describe
    counts twice. References that are None are left out.
    """
    known = [reference for reference in references if reference is not None]
    ranges = {}
    for name in sorted({name for reference in known for name in reference.ranges}):
        having = [reference for reference in known if name in reference.ranges]
        low, median, high = zip(*(reference.ranges[name] for reference in having), strict=True)
        mean = np.average(median, weights=[reference.n_pictures for reference in having])
        ranges[name] = min(low), round(float(mean), 4), max(high)
    return AppearanceReference(sum(reference.n_pictures for reference in known), ranges) if known else None


def judge_appearance(reference: AppearanceReference | None, colour: SlideColour) -> Verdict:
    """Compare a slide with the training pictures of a model.

    Args:
        reference: reference in the model's card; None if not measured.
        colour: stains and appearance of the slide.
    """
    if colour.dark_background:
        return Verdict(OTHER_STAIN, (DARK,))
    if reference is None:
        return Verdict(NOT_KNOWN, ("the model's card has no appearance of its training pictures",))
    if colour.appearance is None:
        return Verdict(NOT_KNOWN, ("colour.json is of a version without measures of appearance",))
    measured = colour.appearance
    if not measured:
        return Verdict(NOT_KNOWN, ("no tissue to measure",))
    reasons = tuple(_reasons(reference, measured))
    is_other = BROWN in _deviations(STAINS, reference, measured)
    return Verdict(OTHER_STAIN if is_other else FLAGGED if reasons else OK, reasons)


def _reasons(reference: AppearanceReference, measured: dict[str, float]) -> Iterator[str]:
    stains = list(_deviations(STAINS, reference, measured))
    if "haematoxylin red" in reference.ranges and "haematoxylin red" not in measured:
        stains.append("not recognised as haematoxylin and eosin")
    if stains:
        yield f"stains unlike those of training: {', '.join(stains)}"
    yield from _deviations(FOCUS, reference, measured)
    if tissue := list(_deviations(TISSUE, reference, measured)):
        yield f"tissue unlike that of training: {', '.join(tissue)}"


def _deviations(
    measures: dict[str, Measure], reference: AppearanceReference, measured: dict[str, float]
) -> Iterator[str]:
    for name, (margin, below, above) in measures.items():
        if name not in measured or name not in reference.ranges:
            continue
        least, _, most = reference.ranges[name]
        if below and measured[name] < least - margin:
            yield below
        if above and measured[name] > most + margin:
            yield above
