"""F1 of detection and classes, as in the point-detection papers: matched one to one within 3 um, with summed counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from muse_pipeline.nuclei.table import Nuclei


def match_points(predicted_xy: np.ndarray, score: np.ndarray, true_xy: np.ndarray, radius: float) -> np.ndarray:
    """By descending score, match each prediction with the nearest unmatched true point within ``radius``.

    This is the protocol of the point-detection papers (DPA-P2PNet, DeNuC; 3 um). It is computed for all predictions at
    once by deferred acceptance: every unmatched prediction proposes to its nearest point that has not rejected it, and
    every point keeps the best-scored prediction. The result is the same, because all points rank predictions by
    score.

    Args:
        predicted_xy: (P, 2) predicted points.
        score: (P,) scores; for ties the lower index is first.
        true_xy: (T, 2) true points, in the same unit.
        radius: largest distance, in the same unit.

    Returns:
        (P,) index of the matched true point, or -1.
    """
    taken = np.full(len(predicted_xy), -1)
    if not len(predicted_xy) or not len(true_xy):
        return taken
    pairs = cKDTree(predicted_xy).sparse_distance_matrix(cKDTree(true_xy), radius, output_type="ndarray")
    order = np.lexsort((pairs["j"], pairs["v"], pairs["i"]))
    asker, point = pairs["i"][order], pairs["j"][order]
    start = np.searchsorted(asker, np.arange(len(predicted_xy) + 1))
    rank = np.empty(len(score), int)
    rank[np.lexsort((np.arange(len(score)), -np.asarray(score)))] = np.arange(len(score))
    following = start[:-1].copy()  # position of the next proposal of each prediction
    holder = np.full(len(true_xy), -1)
    free = np.flatnonzero(following < start[1:])
    while len(free):
        wish = point[following[free]]
        following[free] += 1
        # A point keeps the best-ranked of its current prediction and those that propose to it in this round.
        best = np.full(len(true_xy), len(score))
        held = np.flatnonzero(holder >= 0)
        best[held] = rank[holder[held]]
        np.minimum.at(best, wish, rank[free])
        rejected = free[best[wish] < rank[free]]
        accepted = free[best[wish] == rank[free]]
        accepted_wish = wish[best[wish] == rank[free]]
        ousted = holder[accepted_wish]
        holder[accepted_wish] = accepted
        free = np.concatenate([rejected, ousted[ousted >= 0]])
        free = free[following[free] < start[free + 1]]
    placed = np.flatnonzero(holder >= 0)
    taken[holder[placed]] = placed
    return taken


RADIUS_UM = 3.0


@dataclass(frozen=True)
class DetectionCounts:
    """True positives, false positives and false negatives: row 0 for any class, then a row for each class.

    Attributes:
        values: (..., C + 1, 3); leading axes are draws of the bootstrap.
    """

    values: np.ndarray

    def __add__(self, other: DetectionCounts) -> DetectionCounts:
        return DetectionCounts(self.values + other.values)

    @property
    def precision(self) -> np.ndarray:
        """(..., C + 1) precision in percent; NaN if nothing was found."""
        tp, fp, _ = np.moveaxis(self.values.astype(float), -1, 0)
        return _percent(tp, tp + fp)

    @property
    def recall(self) -> np.ndarray:
        """(..., C + 1) recall in percent; NaN if there are no true nuclei."""
        tp, _, fn = np.moveaxis(self.values.astype(float), -1, 0)
        return _percent(tp, tp + fn)

    @property
    def f1(self) -> np.ndarray:
        """(..., C + 1) F1 in percent; NaN if a class is neither present nor predicted."""
        tp, fp, fn = np.moveaxis(self.values.astype(float), -1, 0)
        return _percent(2 * tp, 2 * tp + fp + fn)

    @property
    def mean_class_f1(self) -> np.ndarray:
        """(...) unweighted mean F1 of the classes that are present or predicted; NaN if there are none."""
        by_class = self.f1[..., 1:]
        known = np.isfinite(by_class)
        return _percent(np.where(known, by_class, 0).sum(-1), known.sum(-1)) / 100

    def scores(self, classes: Sequence[str]) -> dict[str, float]:
        """F1 by name: "detection", each class, and "mean class" for the mean of the classes."""
        f1 = self.f1
        return {"detection": f1[0], "mean class": float(self.mean_class_f1), **dict(zip(classes, f1[1:], strict=True))}


def _percent(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return 100 * np.asarray(part) / whole


@dataclass(frozen=True)
class Matches:
    """Matched nuclei of one slide.

    Attributes:
        predicted_label: (P,) class index, -1 unknown.
        true_label: (T,) class index, -1 unknown.
        taken: (C + 1, P) index of the matched true nucleus, -1 if none: in row 0 regardless of class, in row 1 + c
            among nuclei of class c.
        judged: (P,) bool, True if the truth is complete at the prediction, so that it can be a false positive.
    """

    predicted_label: np.ndarray
    true_label: np.ndarray
    taken: np.ndarray
    judged: np.ndarray

    @property
    def counts(self) -> DetectionCounts:
        """Detection counts; a prediction matched to a nucleus of unknown class does not count as a false positive."""
        rows = []
        of_unknown_class = (
            # The index -1 of an unmatched prediction selects the last nucleus, which the first condition discards.
            (self.taken[0] >= 0) & (self.true_label[self.taken[0]] < 0) if len(self.true_label) else False
        )
        for index, taken in enumerate(self.taken):
            mine = self.predicted_label == index - 1 if index else np.ones(len(taken), bool)
            n_true = (self.true_label == index - 1).sum() if index else len(self.true_label)
            hits = (taken >= 0).sum()
            false = mine & (taken < 0) & self.judged & (~of_unknown_class if index else True)
            rows.append((hits, false.sum(), n_true - hits))
        return DetectionCounts(np.array(rows, int))

    @property
    def confusion(self) -> np.ndarray:
        """(C + 1, C + 1) counts, true class by predicted class; last row: false positives, last column: missed nuclei.

        Pairs are matched regardless of class (row 0 of ``taken``); nuclei of unknown class are left out.
        """
        n_classes = len(self.taken) - 1
        matrix = np.zeros((n_classes + 1, n_classes + 1), int)
        taken = self.taken[0]
        found = taken >= 0
        pairs = np.stack([self.true_label[taken[found]], self.predicted_label[found]])
        np.add.at(matrix, tuple(pairs[:, (pairs >= 0).all(0)]), 1)
        missed = np.delete(self.true_label, taken[found])
        spurious = self.predicted_label[~found & self.judged]
        np.add.at(matrix, (missed[missed >= 0], n_classes), 1)
        np.add.at(matrix, (n_classes, spurious[spurious >= 0]), 1)
        return matrix

    @property
    def n_set_aside(self) -> int:
        """Number of unmatched predictions outside the annotated region, which count neither as right nor as wrong."""
        return int((~self.judged & (self.taken[0] < 0)).sum())


def match_nuclei(
    predicted: Nuclei,
    true: Nuclei,
    n_classes: int,
    mpp: float | tuple[float, float],
    radius_um: float = RADIUS_UM,
    judged: np.ndarray | None = None,
) -> Matches:
    """Match one slide or picture, over all classes and class by class.

    Args:
        predicted: detected nuclei, with scores.
        true: true nuclei in the same frame.
        n_classes: number of classes; labels run from 0 to n_classes - 1, -1 is unknown.
        mpp: um per pixel of the frame, or (x, y).
        radius_um: largest distance of a match.
        judged: (P,) bool, as in ``Matches``; True for all predictions by default.
    """
    predicted.require(true.frame)
    taken = np.full((n_classes + 1, len(predicted)), -1)
    for index, row in enumerate(taken):
        mine = np.flatnonzero(predicted.label == index - 1) if index else np.arange(len(predicted))
        of_class = np.flatnonzero(true.label == index - 1) if index else np.arange(len(true))
        chosen = match_points(predicted.xy[mine] * mpp, predicted.score[mine], true.xy[of_class] * mpp, radius_um)
        row[mine[chosen >= 0]] = of_class[chosen[chosen >= 0]]
    judged = np.ones(len(predicted), bool) if judged is None else judged
    return Matches(predicted.label, true.label, taken, judged)
