"""Dice and AJI of one picture whose nuclei are painted with their numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from muse_pipeline.evaluation.overlaps import jaccard_areas, jaccard_ratio, overlap_labels


@dataclass(frozen=True)
class OutlineScores:
    """Scores of one picture.

    Attributes:
        dice: (M,) Dice of each matched pair.
        aji: aggregated Jaccard index of the picture (Kumar et al., IEEE TMI 2017).
    """

    dice: np.ndarray
    aji: float


def score_outlines(predicted: np.ndarray, true: np.ndarray, radius_px: float) -> OutlineScores:
    """Compare two label pictures (h, w), 0 background.

    Pairs for Dice are matched one-to-one by the Hungarian method on intersection over union, and count if they touch
    and their centroids lie within ``radius_px``.
    """
    overlaps = overlap_labels(predicted, true)
    pairs = overlaps.match()
    rows, columns = overlaps.found[pairs], overlaps.true[pairs]
    apart = np.hypot(*(_centroids(predicted)[rows] - _centroids(true)[columns]).T)
    dice = 2 * overlaps.shared[pairs] / (overlaps.found_area[rows] + overlaps.true_area[columns])
    return OutlineScores(dice[apart <= radius_px], jaccard_ratio(jaccard_areas(overlaps)))


def _centroids(labels: np.ndarray) -> np.ndarray:
    """(N, 2) as (row, column), in ascending order of the labels."""
    ids = np.unique(labels[labels > 0])
    return np.array(ndimage.center_of_mass(labels > 0, labels, ids)).reshape(-1, 2)
