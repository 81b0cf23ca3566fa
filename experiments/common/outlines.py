"""Scores of outlines: detection F1, AJI, Dice of matched nuclei, and boundary F1 with a tolerance
of 0.5 um.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage

from experiments.common.crops import (
    MPP,
    aji,
    compare,
    detection_f1,
    overlap_labels,
    read_dsb2018,
    read_nucls,
    read_tnbc,
)
from muse_pipeline.evaluation.detection import RADIUS_UM, jaccard_areas, jaccard_ratio

BOUNDARY_UM = 0.5


@dataclass(frozen=True)
class OutlineScores:
    """Scores of a picture's outlines.

    Attributes:
        dice: (M,) Dice coefficient of each matched pair.
        aji: aggregated Jaccard index of the picture (Kumar et al., IEEE TMI 2017).
    """

    dice: np.ndarray
    aji: float


def score_outlines(predicted: np.ndarray, true: np.ndarray, radius_px: float) -> OutlineScores:
    """Compare two label pictures (h, w), in which 0 is background.

    For Dice, nuclei are matched one to one by the Hungarian method on intersection over union; a
    pair counts if it overlaps and its centroids are at most ``radius_px`` apart.
    """
    overlaps = overlap_labels(predicted, true)
    pairs = overlaps.match()
    rows, columns = overlaps.detected[pairs], overlaps.true[pairs]
    apart = np.hypot(*(_centroids(predicted)[rows] - _centroids(true)[columns]).T)
    dice = 2 * overlaps.shared[pairs] / (overlaps.detected_area[rows] + overlaps.true_area[columns])
    return OutlineScores(dice[apart <= radius_px], jaccard_ratio(jaccard_areas(overlaps)))


def _centroids(labels: np.ndarray) -> np.ndarray:
    """Centroids (N, 2) as (row, column), in ascending order of the labels."""
    ids = np.unique(labels[labels > 0])
    return np.array(ndimage.center_of_mass(labels > 0, labels, ids)).reshape(-1, 2)


def count_boundaries(
    predicted: np.ndarray, true: np.ndarray, radius_px: float
) -> tuple[int, int, int, int]:
    """Count the boundary pixels of two label pictures (h, w), and those near the other picture's
    boundaries.

    Returns:
        Predicted pixels within ``radius_px`` of a true one, all predicted pixels, true pixels
            within ``radius_px`` of a predicted one, and all true pixels.
    """
    borders = [_on_boundary(labels) for labels in (predicted, true)]
    near = [
        border & (_distance_to(other) <= radius_px)
        for border, other in zip(borders, borders[::-1], strict=True)
    ]
    return tuple(int(mask.sum()) for pair in zip(near, borders, strict=True) for mask in pair)


def boundary_f1(counts: np.ndarray) -> np.ndarray:
    """Boundary F1 (...) from summed counts (..., 4) of ``count_boundaries``."""
    found, n_found, recalled, n_true = np.moveaxis(np.asarray(counts, float), -1, 0)
    precision, recall = found / np.maximum(n_found, 1), recalled / np.maximum(n_true, 1)
    return 2 * precision * recall / np.maximum(precision + recall, 1e-12)


def _on_boundary(labels: np.ndarray) -> np.ndarray:
    """(h, w) bool: pixels of nuclei that have a different label directly above, below, left or
    right.
    """
    padded = np.pad(labels, 1, mode="edge")
    height, width = labels.shape
    around = [padded[y : y + height, x : x + width] for x, y in ((0, 1), (2, 1), (1, 0), (1, 2))]
    return (labels > 0) & np.any([labels != other for other in around], 0)


def _distance_to(mask: np.ndarray) -> np.ndarray:
    """Distance of every pixel to the nearest true pixel of ``mask``; infinite if there is none."""
    if not mask.any():
        return np.full(mask.shape, np.inf)
    return cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def count_crop(found: np.ndarray, true: np.ndarray) -> list[float]:
    """The 11 counts of a crop from which ``MEASURES`` are calculated."""
    dice = score_outlines(found, true, RADIUS_UM / MPP).dice
    return [
        *compare(found, true),
        dice.sum(),
        len(dice),
        *count_boundaries(found, true, BOUNDARY_UM / MPP),
    ]


MEASURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # functions of summed counts (..., 11)
    "detection F1": lambda counts: detection_f1(counts[..., :5]),
    "AJI": lambda counts: aji(counts[..., :5]),
    "Dice": lambda counts: counts[..., 5] / np.maximum(counts[..., 6], 1),
    "boundary F1": lambda counts: boundary_f1(counts[..., 7:]),
}
SETS = {"tnbc": read_tnbc, "nucls": read_nucls, "dsb2018": read_dsb2018}  # all at 0.25 um/px
