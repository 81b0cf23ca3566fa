"""Comparison of detected outlines with true outlines: overlap, AJI and panoptic quality."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import shapely
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


@dataclass(frozen=True)
class Overlaps:
    """Areas of P detected and T true outlines, and of the intersections of overlapping pairs."""

    detected: np.ndarray  # (E,) index of the detected outline of each overlapping pair
    true: np.ndarray  # (E,) index of the true outline of each pair
    shared: np.ndarray  # (E,) area of the intersection, in the unit of the areas
    detected_area: np.ndarray  # (P,) areas of the detected outlines
    true_area: np.ndarray  # (T,) areas of the true outlines

    @property
    def union(self) -> np.ndarray:
        """(E,) area of the union of each pair."""
        return self.detected_area[self.detected] + self.true_area[self.true] - self.shared

    @property
    def iou(self) -> np.ndarray:
        """(E,) intersection over union."""
        return self.shared / self.union

    def keep(self, detected: np.ndarray, true: np.ndarray) -> Overlaps:
        """Keep only pairs of the outlines selected by masks (P,) and (T,); indices and areas are unchanged."""
        pair = detected[self.detected] & true[self.true]
        return replace(self, detected=self.detected[pair], true=self.true[pair], shared=self.shared[pair])

    def match(self, above: float = 0.0) -> np.ndarray:
        """Indices (M,) of the pairs with IoU > ``above`` in the one-to-one matching with the largest total IoU.

        If ``above`` is at least 0.5, the matching is unique unless detected outlines overlap each other.
        """
        kept = np.flatnonzero(self.iou > above)
        # Outlines in different clusters do not compete, so each cluster is a small assignment problem.
        n_detected, n_nodes = len(self.detected_area), len(self.detected_area) + len(self.true_area)
        edges = coo_array((np.ones(len(kept)), (self.detected[kept], n_detected + self.true[kept])), (n_nodes, n_nodes))
        cluster = connected_components(edges, directed=False)[1][self.detected[kept]]
        order = np.argsort(cluster, kind="stable")
        groups = np.split(kept[order], np.flatnonzero(np.diff(cluster[order])) + 1)
        return np.sort(np.concatenate([group if len(group) < 2 else self._assign(group) for group in groups]))

    def _assign(self, pairs: np.ndarray) -> np.ndarray:
        """The best one-to-one matching among pairs (G,) of one cluster of outlines."""
        (rows, row), (columns, column) = (
            np.unique(side[pairs], return_inverse=True) for side in (self.detected, self.true)
        )
        pair_at = np.full((len(rows), len(columns)), -1)
        pair_at[row, column] = pairs
        weight = np.where(pair_at >= 0, self.iou[pair_at], 0)
        chosen = pair_at[linear_sum_assignment(weight, maximize=True)]
        return chosen[chosen >= 0]


def overlap_polygons(detected: np.ndarray, true: np.ndarray, mpp: tuple[float, float]) -> Overlaps:
    """Overlaps in um2 of polygons (P,) and (T,) in pixels of ``mpp``, computed without rasterising them."""
    um2 = mpp[0] * mpp[1]
    pairs = shapely.STRtree(true).query(detected, predicate="intersects")
    shared = shapely.area(shapely.intersection(detected[pairs[0]], true[pairs[1]])) * um2
    touching = shared > 0
    return Overlaps(*pairs[:, touching], shared[touching], shapely.area(detected) * um2, shapely.area(true) * um2)


MIN_IOU = 0.5


@dataclass(frozen=True)
class PanopticCounts:
    """Sums over slides: row 0 for any class (bPQ), then a row for each class (mPQ is their mean)."""

    # (..., C + 1, 4) sum of IoU, true positives, false positives, false negatives; leading axes are draws of the
    # bootstrap
    values: np.ndarray

    @property
    def segmentation_quality(self) -> np.ndarray:
        """(..., C + 1) mean IoU of the matched pairs; NaN if there are none."""
        return ratio(self.values[..., 0], self.values[..., 1])

    @property
    def detection_quality(self) -> np.ndarray:
        """(..., C + 1) F1 of the matching; NaN if there are neither true nor detected outlines."""
        _, tp, fp, fn = np.moveaxis(self.values, -1, 0)
        return ratio(2 * tp, 2 * tp + fp + fn)

    @property
    def quality(self) -> np.ndarray:
        """(..., C + 1) PQ; NaN if there are neither true nor detected outlines."""
        iou, tp, fp, fn = np.moveaxis(self.values, -1, 0)
        return ratio(2 * iou, 2 * tp + fp + fn)

    @property
    def mean_class_quality(self) -> np.ndarray:
        """(...) mPQ: unweighted mean PQ of the classes that are present or detected."""
        by_class = self.quality[..., 1:]
        has_quality = np.isfinite(by_class)
        return ratio(np.where(has_quality, by_class, 0).sum(-1), has_quality.sum(-1))


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """``above`` / ``below`` (...), NaN where both are 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(above, float) / below


def count_panoptic(
    overlaps: Overlaps, detected_label: np.ndarray, true_label: np.ndarray, n_classes: int, judged: np.ndarray
) -> PanopticCounts:
    """Sums for the PQ of one slide with P detected and T true outlines, whose labels are class indices, -1 if unknown.

    Classes are matched separately, as the definition requires. As for F1, a detected outline that matches a true
    nucleus of unknown class is not a false positive of its own class. ``judged`` (P,) is that of ``detection.Matches``.
    """
    agreeing = np.flatnonzero(overlaps.iou > MIN_IOU)
    excused = np.zeros(len(detected_label), bool)
    excused[overlaps.detected[agreeing][true_label[overlaps.true[agreeing]] < 0]] = True
    pairs = overlaps.match(MIN_IOU)
    rows = [_sums(overlaps, pairs, len(true_label), judged)]
    for label in range(n_classes):
        within = overlaps.keep(detected_label == label, true_label == label)
        may_be_false = judged & ~excused & (detected_label == label)
        rows.append(_sums(within, within.match(MIN_IOU), (true_label == label).sum(), may_be_false))
    return PanopticCounts(np.array(rows))


def _sums(overlaps: Overlaps, pairs: np.ndarray, n_true: int, may_be_false: np.ndarray) -> tuple[float, ...]:
    false = may_be_false.copy()
    false[overlaps.detected[pairs]] = False
    return overlaps.iou[pairs].sum(), len(pairs), false.sum(), n_true - len(pairs)


def jaccard_areas(overlaps: Overlaps, judged: np.ndarray | None = None) -> np.ndarray:
    """Areas of intersection and of union; the ratio of their sums over slides is the AJI.

    Each true nucleus is paired with the detected nucleus of largest IoU. Other detected nuclei that are ``judged``
    (P,), as in ``detection.Matches``, add their areas to the union.
    """
    order = np.lexsort((-overlaps.detected, overlaps.iou))  # for equal IoU the first detected outline wins
    best = np.full(len(overlaps.true_area), -1)
    best[overlaps.true[order]] = order  # the last assignment to an index wins
    pairs = best[best >= 0]
    unused = np.ones(len(overlaps.detected_area), bool) if judged is None else judged.copy()
    unused[overlaps.detected[pairs]] = False
    covered = overlaps.union[pairs].sum() + overlaps.true_area[best < 0].sum() + overlaps.detected_area[unused].sum()
    return np.array([overlaps.shared[pairs].sum(), covered], float)


def jaccard_ratio(areas: np.ndarray) -> np.ndarray:
    """AJI (...) of areas (..., 2); 1 if nothing is present and nothing was detected."""
    shared, covered = np.moveaxis(np.asarray(areas, float), -1, 0)
    return np.divide(shared, covered, out=np.ones_like(shared), where=covered > 0)
