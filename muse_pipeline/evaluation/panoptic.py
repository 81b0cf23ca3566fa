"""Panoptic quality (PQ; Kirillov et al., CVPR 2019): outlines that agree by more than half, and how well they agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from muse_pipeline.evaluation.overlap import Overlaps

MIN_IOU = 0.5


@dataclass(frozen=True)
class PanopticCounts:
    """Sums over slides: row 0 of any class (bPQ), rows 1.. of each class (mPQ is their mean).

    Attributes:
        values: (..., C + 1, 4) sum of IoU, true positives, false positives, false negatives; leading axes are draws of
            the bootstrap.
    """

    values: np.ndarray

    @property
    def segmentation_quality(self) -> np.ndarray:
        """(..., C + 1) mean IoU of the matched; NaN where none is."""
        return _ratio(self.values[..., 0], self.values[..., 1])

    @property
    def detection_quality(self) -> np.ndarray:
        """(..., C + 1) F1 of the matching; NaN where nothing is there or found."""
        _, tp, fp, fn = np.moveaxis(self.values, -1, 0)
        return _ratio(2 * tp, 2 * tp + fp + fn)

    @property
    def quality(self) -> np.ndarray:
        """(..., C + 1) PQ; NaN where nothing is there or found."""
        iou, tp, fp, fn = np.moveaxis(self.values, -1, 0)
        return _ratio(2 * iou, 2 * tp + fp + fn)

    @property
    def mean_class_quality(self) -> np.ndarray:
        """(...) mPQ: unweighted mean over the classes that are there or found."""
        by_class = self.quality[..., 1:]
        known = np.isfinite(by_class)
        return _ratio(np.where(known, by_class, 0).sum(-1), known.sum(-1))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(above, float) / below


def count_panoptic(
    overlaps: Overlaps, found_label: np.ndarray, true_label: np.ndarray, n_classes: int, judged: np.ndarray
) -> PanopticCounts:
    """PQ's sums of one slide.

    A class is matched within itself, as its definition wants. As for F1, a found outline that lies on a true nucleus of
    unknown class is neither right nor wrong about its class.

    Args:
        overlaps: of P found and T true outlines.
        found_label: (P,) class index, -1 unknown.
        true_label: (T,) class index, -1 unknown.
        n_classes: how many there are.
        judged: (P,) whether a found outline may be false, see ``detection.Matches``.
    """
    agreeing = np.flatnonzero(overlaps.iou > MIN_IOU)
    excused = np.zeros(len(found_label), bool)
    excused[overlaps.found[agreeing][true_label[overlaps.true[agreeing]] < 0]] = True
    pairs = overlaps.match(MIN_IOU)
    rows = [_sums(overlaps, pairs, len(true_label), judged)]
    for label in range(n_classes):
        within = overlaps.keep(found_label == label, true_label == label)
        may_be_false = judged & ~excused & (found_label == label)
        rows.append(_sums(within, within.match(MIN_IOU), (true_label == label).sum(), may_be_false))
    return PanopticCounts(np.array(rows))


def _sums(overlaps: Overlaps, pairs: np.ndarray, n_true: int, may_be_false: np.ndarray) -> tuple[float, ...]:
    false = may_be_false.copy()
    false[overlaps.found[pairs]] = False
    return overlaps.iou[pairs].sum(), len(pairs), false.sum(), n_true - len(pairs)
