"""Doubts about a slide: about its appearance compared with the training pictures, its stain, scale
and classes.

A model's card contains the range of every measure of ``tissue.colour`` over the training pictures.
A slide that lies outside a range by more than a margin is flagged, with the reason in words; a
slide with a dark background, or of immunohistochemistry, has a different stain. No step fails
because of a doubt. docs/guide/confidence.md states how often pictures of an unseen site are
flagged, and the limits of the check.

``inference.trust`` states what doubts mean for numbers. If the pixel size is wrong, the commonest
mistake, the nuclei of every class are larger or smaller than in training. In other tissue, single
classes differ too, so that the classes are judged together. A pixel size that the scanner wrote
into the slide's file is rarely wrong, so the size of nuclei then leads to a warning only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from muse_pipeline.core.provenance import (
    DARK,
    EOSIN,
    FLAGGED,
    NO_BROWN,
    NOT_KNOWN,
    OF_CELLS,
    OK,
    OTHER_STAIN,
    STATED_IHC,
    Verdict,
)
from muse_pipeline.core.specimen import CELL_IHC, HE, IHC
from muse_pipeline.inference.card import AppearanceReference, ClassReference
from muse_pipeline.tissue.colour import SlideColour

PERCENTILES = (1, 50, 99)
BROWN = "much brown, such as pigment"
BROWN_NUCLEI = "brown nuclei or cells, as in immunohistochemistry"
MIN_NUCLEI = 100  # minimum number of nuclei of a class or slide; fewer may not be representative
# The plausible sizes of nuclei relative to training, from pictures of eight organs, those at half,
# 1.5 and twice their pixel size included (experiments/doubts).
PLAUSIBLE = 0.47, 1.5
LARGEST_MIXED = 2.0  # where all belong to a class of several kinds of cells, such as hepatocytes
# At a wrong pixel size no picture has a higher mean class probability; the largest size is doubled.
CERTAIN = 0.97
MIN_OF_CLASS = 15  # minimum number of nuclei of a class whose size is compared
# plausible median areas in um2 for models whose cards have no sizes
PLAUSIBLE_UM2 = 14.0, 100.0
ENLARGED_MPP = 0.525  # in coarser slides, which are enlarged, parts of nuclei are found: not judged
CHECK = "check the pixel size"  # beginning of the warning
_BIN_UM2, _LARGEST_UM2 = 0.1, 1000.0
_STEPS = 1_000_000  # integer steps per unit of probability
# limit of a class's median area, relative to the largest in training, at usual probabilities
MARGIN = 1.2


class Measure(NamedTuple):
    """Criterion by which one measure of a slide is flagged: tolerated distance beyond the range of
    training pictures.

    The meanings of a value ``below`` and ``above`` the range are in words; "" if it is not flagged.
    """

    margin: float
    below: str
    above: str


# Each margin is how far pictures of one site lie outside the range of two other sites
# (docs/guide/confidence.md).
STAINS = {
    "brown": Measure(0.007, "", BROWN),
    "foreign": Measure(0.1, "", "colours other than those of haematoxylin and eosin"),
    "tissue red": Measure(0.2, "tissue redder", "tissue bluer"),
    "tissue blue": Measure(0.2, "tissue more violet", "tissue more yellow or brown"),
    "nuclei red": Measure(0.2, "nuclei redder", "nuclei bluer"),
    "nuclei blue": Measure(0.2, "nuclei more violet", "nuclei more yellow or brown"),
    "tissue density": Measure(0.5, "tissue paler", "tissue darker"),
    "nuclei density": Measure(0.5, "nuclei paler", "nuclei darker"),
    "haematoxylin red": Measure(0.1, "haematoxylin redder", "haematoxylin bluer"),
    "haematoxylin blue": Measure(
        0.1, "haematoxylin more violet", "haematoxylin more grey or brown"
    ),
    "haematoxylin strength": Measure(0.5, "haematoxylin weaker", "haematoxylin stronger"),
    "eosin red": Measure(0.1, "eosin redder", "eosin bluer"),
    "eosin blue": Measure(0.1, "eosin more violet", "eosin more yellow or brown"),
    "eosin strength": Measure(0.5, "eosin weaker", "eosin stronger"),
}
FOCUS = {"sharpness": Measure(0.5, "out of focus", "")}
TISSUE = {"contrast": Measure(0.5, "less structure", "more structure")}


def describe_training(measured: Sequence[dict[str, float]]) -> AppearanceReference | None:
    """The reference from the ``tissue.colour`` measures of all training pictures; None if nothing
    was measured.
    """
    names = sorted({name for measures in measured for name in measures})
    values = {name: [measures[name] for measures in measured if name in measures] for name in names}
    ranges = {
        name: tuple(np.percentile(values[name], PERCENTILES).round(4).tolist()) for name in names
    }
    return AppearanceReference(len(measured), ranges) if ranges else None


def merge_references(*references: AppearanceReference | None) -> AppearanceReference | None:
    """The reference of a model that was trained on the pictures of all references.

    The range of each measure spans its ranges in all references. Medians are averaged, weighted by
    the numbers of pictures; these numbers are added up, so a picture in two references counts
    twice. Each None is left out.
    """
    present = [reference for reference in references if reference is not None]
    ranges = {}
    for name in sorted({name for reference in present for name in reference.ranges}):
        having = [reference for reference in present if name in reference.ranges]
        low, median, high = zip(*(reference.ranges[name] for reference in having), strict=True)
        mean = np.average(median, weights=[reference.n_pictures for reference in having])
        ranges[name] = min(low), round(float(mean), 4), max(high)
    if present:
        return AppearanceReference(sum(reference.n_pictures for reference in present), ranges)
    return None


def judge_appearance(
    reference: AppearanceReference | None, colour: SlideColour, stain: str | None = None
) -> Verdict:
    """Compare a slide with the training pictures of a model, whose card may have no ``reference``.

    If the ``stain`` that the user states, one of ``core.specimen.STAINS``, is None or "unknown",
    the colours decide.
    """
    if other := _name_other_stain(colour, stain):
        return Verdict(OTHER_STAIN, other)
    if reference is None:
        return Verdict(
            NOT_KNOWN,
            ("the model's card does not describe the appearance of its training pictures",),
        )
    if colour.appearance is None:
        return Verdict(
            NOT_KNOWN, ("colour.json was written by a version that did not measure the appearance",)
        )
    measured = colour.appearance
    if not measured:
        return Verdict(NOT_KNOWN, ("no tissue to measure",))
    reasons = (
        *_reasons(reference, measured),
        *([f"{BROWN_NUCLEI}, but stated as H&E"] if colour.is_ihc else []),
    )
    return Verdict(FLAGGED if reasons else OK, reasons)


def _name_other_stain(colour: SlideColour, stain: str | None) -> tuple[str, ...]:
    """The reasons why a slide is not H&E; empty if it is."""
    if colour.dark_background:
        return (DARK,)
    if stain in (IHC, CELL_IHC):
        of_cells = [OF_CELLS] if stain == CELL_IHC else []
        brown = [] if colour.is_ihc else [EOSIN if colour.has_eosin else NO_BROWN]
        return STATED_IHC, *of_cells, *brown
    return (BROWN_NUCLEI,) if colour.is_ihc and stain != HE else ()


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


def judge_classes(
    references: Mapping[str, ClassReference], sizes: Mapping[str, Mapping[str, Any]]
) -> str:
    """The reason why counts of classes are doubtful; "" if they are not.

    A class is doubtful if the median area of its nuclei exceeds a limit that depends on their mean
    class probability. Between the median and the maximum probability on the training slides, the
    limit is 1.2 times the largest median area on any training slide. It falls below the median
    probability, down to the geometric mean of the median and the largest area at the minimum
    probability. Above the maximum probability there is no limit. The ``sizes`` have ``n_nuclei``,
    ``median_area_um2`` and ``mean_class_probability`` of each class on the slide.
    """
    reasons = []
    for name, reference in references.items():
        if sizes[name]["n_nuclei"] < MIN_NUCLEI or reference.mean_class_probability is None:
            continue
        area, probability = (
            sizes[name][key] for key in ("median_area_um2", "mean_class_probability")
        )
        _, typical, most = reference.median_area_um2
        limits = np.sqrt(typical * most), MARGIN * most, MARGIN * most
        limit = np.interp(probability, reference.mean_class_probability, limits, right=np.inf)
        if area > limit:
            reasons.append(
                f'nuclei of the class "{name}" are too large for it (median area {area:.1f} um2,'
                f" expected at most {limit:.1f} um2 at a mean class probability of"
                f" {probability:.2f})"
            )
    return f"check the classes: {'; '.join(reasons)}" if reasons else ""


@dataclass(frozen=True)
class NuclearSize:
    """Number and size of the nuclei of a slide, or of one of its classes.

    The median area is None without nuclei; the mean over the nuclei of the probability of the
    likeliest class is None without nuclei or for a model of one class.
    """

    n_nuclei: int
    median_area_um2: float | None = None
    mean_class_probability: float | None = None


def relative_sizes(
    references: Mapping[str, ClassReference], of_class: Mapping[str, NuclearSize]
) -> dict[str, float]:
    """Median area of the nuclei divided by that in training, by class; without classes that the
    card does not describe or that have fewer than ``MIN_OF_CLASS`` nuclei.
    """
    return {
        name: size.median_area_um2 / references[name].median_area_um2[1]
        for name, size in of_class.items()
        if name in references and size.n_nuclei >= MIN_OF_CLASS
    }


def judge_scale(
    references: Mapping[str, ClassReference],
    size: NuclearSize,
    of_class: Mapping[str, NuclearSize],
    mpp: tuple[float, float],
) -> str:
    """A warning if the nuclei of a slide are too small or too large for its ``mpp`` = (x, y) um per
    level-0 pixel; "" otherwise.

    Classes are compared by the geometric mean of their relative sizes. Small nuclei are not judged
    in enlarged slides, nor if all belong to a class of several kinds of cells, such as fibres of
    muscle cut across.
    """
    if size.n_nuclei < MIN_NUCLEI:
        return ""
    ratios = relative_sizes(references, of_class)
    area = size.median_area_um2
    is_mixed = ratios and not any(references[name].mean_class_probability for name in ratios)
    ratio = float(np.exp(np.mean(np.log(list(ratios.values()))))) if ratios else None
    value, (least, most) = (area, PLAUSIBLE_UM2) if ratio is None else (ratio, PLAUSIBLE)
    if is_mixed:
        most = LARGEST_MIXED
    if (size.mean_class_probability or 0) > CERTAIN:
        most *= 2
    is_small = value < least and max(mpp) <= ENLARGED_MPP and not is_mixed
    if not is_small and value <= most:
        return ""
    compared = "" if ratio is None else f", {ratio:.2g} times that of training, class by class"
    return (
        f"{CHECK}, {np.mean(mpp):.4g} um: the nuclei are too {'small' if is_small else 'large'} for"
        f" it (median area {area:.1f} um2{compared})"
    )


class SizeSample:
    """Sums up sizes in integers, so that the result depends neither on the order nor on the
    grouping of nuclei.
    """

    def __init__(self) -> None:
        self._n_by_area = np.zeros(round(_LARGEST_UM2 / _BIN_UM2), np.int64)
        self._probability = 0

    def add(self, area_um2: np.ndarray, prob: np.ndarray) -> None:
        """Add nuclei by area (N,) and class probabilities (N, C)."""
        bins = (area_um2 / _BIN_UM2).astype(np.int64).clip(0, len(self._n_by_area) - 1)
        self._n_by_area += np.bincount(bins, minlength=len(self._n_by_area))
        if prob.shape[1] > 1:
            self._probability += int(
                np.rint(prob.max(1).astype(float) * _STEPS).astype(np.int64).sum()
            )

    def measure(self) -> NuclearSize:
        """The median area, to 0.1 um2, and the mean class probability."""
        n = int(self._n_by_area.sum())
        if not n:
            return NuclearSize(0)
        median = round(float(np.searchsorted(self._n_by_area.cumsum(), (n + 1) // 2)) * _BIN_UM2, 1)
        return NuclearSize(
            n, median, round(self._probability / n / _STEPS, 4) if self._probability else None
        )
