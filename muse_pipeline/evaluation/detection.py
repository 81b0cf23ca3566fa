"""Comparison of detected with true nuclei: F1 of detection and classes, overlap of outlines, AJI
and panoptic quality.

F1 is that of the point-detection papers: matched one to one within 3 um, with summed counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import shapely
from numpy import ndarray
from scipy.spatial import cKDTree

from muse_pipeline.nuclei.table import Nuclei


def match_points(predicted_xy: ndarray, score: ndarray, true_xy: ndarray, radius: float) -> ndarray:
    """By descending score, match each prediction with the nearest unmatched true point within
    ``radius``.

    This is the protocol of the point-detection papers (DPA-P2PNet, DeNuC; 3 um). For ties the
    lower index is first. Points (P, 2) and (T, 2) and ``radius`` have the same unit. The result
    (P,) is the index of the matched true point, or -1.
    """
    taken = np.full(len(predicted_xy), -1)
    if not len(predicted_xy) or not len(true_xy):
        return taken
    pairs = cKDTree(predicted_xy).sparse_distance_matrix(
        cKDTree(true_xy), radius, output_type="ndarray"
    )
    rank = np.empty(len(score), int)
    rank[np.argsort(-np.asarray(score), kind="stable")] = np.arange(len(score))
    order = np.lexsort((pairs["j"], pairs["v"], rank[pairs["i"]]))
    matched = order[_match_in_order(pairs["i"][order], pairs["j"][order])]
    taken[pairs["i"][matched]] = pairs["j"][matched]
    return taken


def _match_in_order(one: ndarray, other: ndarray) -> ndarray:
    """Indices of the matched pairs among (``one``, ``other``), (E,) each: those whose members are
    both in no earlier matched pair.
    """
    matched = []
    ones = set()
    others = set()
    for index, (mine, its) in enumerate(zip(one.tolist(), other.tolist(), strict=True)):
        if mine not in ones and its not in others:
            matched.append(index)
            ones.add(mine)
            others.add(its)
    return np.array(matched, int)


RADIUS_UM = 3.0


@dataclass(frozen=True)
class DetectionCounts:
    """True positives, false positives and false negatives: row 0 for any class, then a row for each
    class.
    """

    values: ndarray  # (..., C + 1, 3); leading axes are draws of the bootstrap

    def __add__(self, other: DetectionCounts) -> DetectionCounts:
        return DetectionCounts(self.values + other.values)

    @property
    def precision(self) -> ndarray:
        """(..., C + 1) precision in percent; NaN if nothing was found."""
        return ratio(100 * self.values[..., 0], self.values[..., :2].sum(-1))

    @property
    def recall(self) -> ndarray:
        """(..., C + 1) recall in percent; NaN if there are no true nuclei."""
        return ratio(100 * self.values[..., 0], self.values[..., ::2].sum(-1))

    @property
    def f1(self) -> ndarray:
        """(..., C + 1) F1 in percent; NaN if a class is neither present nor predicted."""
        return ratio(200 * self.values[..., 0], self.values @ (2, 1, 1))

    @property
    def mean_class_f1(self) -> ndarray:
        """(...) unweighted mean F1 of the classes that are present or predicted; NaN if there are
        none.
        """
        return _mean_of_classes(self.f1)

    def scores(self, classes: Sequence[str]) -> dict[str, float]:
        """F1 by name: "detection", each class, and "mean class" for the mean of the classes."""
        f1 = self.f1
        return {
            "detection": f1[0],
            "mean class": float(self.mean_class_f1),
            **dict(zip(classes, f1[1:], strict=True)),
        }


def ratio(above: ndarray, below: ndarray) -> ndarray:
    """``above`` / ``below`` (...), NaN where both are 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(above, float) / below


def _mean_of_classes(scores: ndarray) -> ndarray:
    """(...) mean of the scores (..., C + 1) of the classes, without NaN."""
    of_classes = scores[..., 1:]
    return ratio(np.nansum(of_classes, -1), np.isfinite(of_classes).sum(-1))


@dataclass(frozen=True)
class Matches:
    """Matched nuclei of one slide."""

    predicted_label: ndarray  # (P,) class index, -1 unknown
    true_label: ndarray  # (T,) class index, -1 unknown
    # (C + 1, P) index of the matched true nucleus, -1 if none: in row 0 regardless of class, in row
    # 1 + c among nuclei of class c
    taken: ndarray
    # (P,) bool, True if the truth is complete at the prediction, so that it can be a false positive
    judged: ndarray

    @property
    def counts(self) -> DetectionCounts:
        """Detection counts; a prediction matched to a nucleus of unknown class does not count as a
        false positive.
        """
        rows = []
        of_unknown_class = (
            # The index -1 of an unmatched prediction selects the last nucleus, which the first
            # condition discards.
            (self.taken[0] >= 0) & (self.true_label[self.taken[0]] < 0)
            if len(self.true_label)
            else False
        )
        for index, taken in enumerate(self.taken):
            mine = self.predicted_label == index - 1 if index else np.ones(len(taken), bool)
            n_true = (self.true_label == index - 1).sum() if index else len(self.true_label)
            hits = (taken >= 0).sum()
            false = mine & (taken < 0) & self.judged & (~of_unknown_class if index else True)
            rows.append((hits, false.sum(), n_true - hits))
        return DetectionCounts(np.array(rows, int))

    @property
    def confusion(self) -> ndarray:
        """(C + 1, C + 1) counts, true class by predicted class; last row: false positives, last
        column: missed nuclei.

        Pairs are matched regardless of class (row 0 of ``taken``); nuclei of unknown class are left
        out.
        """
        n_classes = len(self.taken) - 1
        matrix = np.zeros((n_classes + 1, n_classes + 1), int)
        taken = self.taken[0]
        is_matched = taken >= 0
        pairs = np.stack([self.true_label[taken[is_matched]], self.predicted_label[is_matched]])
        np.add.at(matrix, tuple(pairs[:, (pairs >= 0).all(0)]), 1)
        missed = np.delete(self.true_label, taken[is_matched])
        spurious = self.predicted_label[~is_matched & self.judged]
        np.add.at(matrix, (missed[missed >= 0], n_classes), 1)
        np.add.at(matrix, (n_classes, spurious[spurious >= 0]), 1)
        return matrix

    @property
    def n_set_aside(self) -> int:
        """Number of unmatched predictions outside the annotated region, which count neither as
        right nor as wrong.
        """
        return int((~self.judged & (self.taken[0] < 0)).sum())


def match_nuclei(
    predicted: Nuclei,
    true: Nuclei,
    n_classes: int,
    mpp: float | tuple[float, float],
    radius_um: float = RADIUS_UM,
    judged: ndarray | None = None,
) -> Matches:
    """Match one slide or picture with pixels of ``mpp``, over all classes and class by class.

    Labels run from 0 to ``n_classes`` - 1, -1 is unknown; ``judged`` (P,) is that of ``Matches``,
    True by default.
    """
    predicted.require(true.frame)
    taken = np.full((n_classes + 1, len(predicted)), -1)
    for index, row in enumerate(taken):
        mine = np.flatnonzero(predicted.label == index - 1) if index else np.arange(len(predicted))
        of_class = np.flatnonzero(true.label == index - 1) if index else np.arange(len(true))
        chosen = match_points(
            predicted.xy[mine] * mpp, predicted.score[mine], true.xy[of_class] * mpp, radius_um
        )
        row[mine[chosen >= 0]] = of_class[chosen[chosen >= 0]]
    judged = np.ones(len(predicted), bool) if judged is None else judged
    return Matches(predicted.label, true.label, taken, judged)


@dataclass(frozen=True)
class Overlaps:
    """Areas of P detected and T true outlines, and of the intersections of overlapping pairs."""

    detected: ndarray  # (E,) index of the detected outline of each overlapping pair
    true: ndarray  # (E,) index of the true outline of each pair
    shared: ndarray  # (E,) area of the intersection, in the unit of the areas
    detected_area: ndarray  # (P,) areas of the detected outlines
    true_area: ndarray  # (T,) areas of the true outlines

    @property
    def union(self) -> ndarray:
        """(E,) area of the union of each pair."""
        return self.detected_area[self.detected] + self.true_area[self.true] - self.shared

    @property
    def iou(self) -> ndarray:
        """(E,) intersection over union."""
        return self.shared / self.union

    def keep(self, detected: ndarray, true: ndarray) -> Overlaps:
        """Keep only pairs of the outlines selected by masks (P,) and (T,); indices and areas are
        unchanged.
        """
        pair = detected[self.detected] & true[self.true]
        return replace(
            self, detected=self.detected[pair], true=self.true[pair], shared=self.shared[pair]
        )

    def match(self) -> ndarray:
        """Indices (M,) of the pairs with IoU > ``MIN_IOU``, each outline in one pair at most.

        They are unique unless outlines overlap others of their kind; then larger IoU come first.
        """
        order = np.argsort(-self.iou, kind="stable")
        order = order[self.iou[order] > MIN_IOU]
        return np.sort(order[_match_in_order(self.detected[order], self.true[order])])


def overlap_polygons(detected: ndarray, true: ndarray, mpp: tuple[float, float]) -> Overlaps:
    """Overlaps in um2 of polygons (P,) and (T,) in pixels of ``mpp``, computed without rasterising
    them.
    """
    um2 = mpp[0] * mpp[1]
    pairs = shapely.STRtree(true).query(detected, predicate="intersects")
    shared = shapely.area(shapely.intersection(detected[pairs[0]], true[pairs[1]])) * um2
    touching = shared > 0
    return Overlaps(
        *pairs[:, touching],
        shared[touching],
        shapely.area(detected) * um2,
        shapely.area(true) * um2,
    )


MIN_IOU = 0.5


@dataclass(frozen=True)
class PanopticCounts:
    """Sums over slides: row 0 for any class (bPQ), then a row for each class (mPQ is their
    mean).
    """

    # (..., C + 1, 4) sum of IoU, true positives, false positives, false negatives; leading axes are
    # draws of the bootstrap
    values: ndarray

    @property
    def segmentation_quality(self) -> ndarray:
        """(..., C + 1) mean IoU of the matched pairs; NaN if there are none."""
        return ratio(self.values[..., 0], self.values[..., 1])

    @property
    def detection_quality(self) -> ndarray:
        """(..., C + 1) F1 of the matching; NaN if there are neither true nor detected outlines."""
        return ratio(2 * self.values[..., 1], self.values @ (0, 2, 1, 1))

    @property
    def quality(self) -> ndarray:
        """(..., C + 1) PQ; NaN if there are neither true nor detected outlines."""
        return ratio(2 * self.values[..., 0], self.values @ (0, 2, 1, 1))

    @property
    def mean_class_quality(self) -> ndarray:
        """(...) mPQ: unweighted mean PQ of the classes that are present or detected."""
        return _mean_of_classes(self.quality)


def count_panoptic(
    overlaps: Overlaps,
    detected_label: ndarray,
    true_label: ndarray,
    n_classes: int,
    judged: ndarray,
) -> PanopticCounts:
    """Sums for the PQ of one slide with P detected and T true outlines, whose labels are class
    indices, -1 if unknown.

    Classes are matched separately, as the definition requires. As for F1, a detected outline that
    matches a true nucleus of unknown class is not a false positive of its own class. ``judged``
    (P,) is that of ``detection.Matches``.
    """
    agreeing = np.flatnonzero(overlaps.iou > MIN_IOU)
    excused = np.zeros(len(detected_label), bool)
    excused[overlaps.detected[agreeing][true_label[overlaps.true[agreeing]] < 0]] = True
    pairs = overlaps.match()
    rows = [_sums(overlaps, pairs, len(true_label), judged)]
    for label in range(n_classes):
        within = overlaps.keep(detected_label == label, true_label == label)
        may_be_false = judged & ~excused & (detected_label == label)
        rows.append(_sums(within, within.match(), (true_label == label).sum(), may_be_false))
    return PanopticCounts(np.array(rows))


def _sums(
    overlaps: Overlaps, pairs: ndarray, n_true: int, may_be_false: ndarray
) -> tuple[float, ...]:
    false = may_be_false.copy()
    false[overlaps.detected[pairs]] = False
    return overlaps.iou[pairs].sum(), len(pairs), false.sum(), n_true - len(pairs)


def jaccard_areas(overlaps: Overlaps, judged: ndarray | None = None) -> ndarray:
    """Areas of intersection and of union; the ratio of their sums over slides is the AJI.

    Each true nucleus is paired with the detected nucleus of largest IoU. Other detected nuclei that
    are ``judged`` (P,), as in ``detection.Matches``, add their areas to the union.
    """
    # for equal IoU the first detected outline wins
    order = np.lexsort((-overlaps.detected, overlaps.iou))
    best = np.full(len(overlaps.true_area), -1)
    best[overlaps.true[order]] = order  # the last assignment to an index wins
    pairs = best[best >= 0]
    unused = np.ones(len(overlaps.detected_area), bool) if judged is None else judged.copy()
    unused[overlaps.detected[pairs]] = False
    covered = (
        overlaps.union[pairs].sum()
        + overlaps.true_area[best < 0].sum()
        + overlaps.detected_area[unused].sum()
    )
    return np.array([overlaps.shared[pairs].sum(), covered], float)


def jaccard_ratio(areas: ndarray) -> ndarray:
    """AJI (...) of areas (..., 2); 1 if nothing is present and nothing was detected."""
    shared, covered = np.moveaxis(np.asarray(areas, float), -1, 0)
    return np.divide(shared, covered, out=np.ones_like(shared), where=covered > 0)
