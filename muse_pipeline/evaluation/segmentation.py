"""Outlines against true outlines: Dice of matched nuclei and the aggregated Jaccard index (AJI)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from muse_pipeline.evaluation.overlap import Overlaps, overlap_labels


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


def jaccard_areas(overlaps: Overlaps, judged: np.ndarray | None = None) -> np.ndarray:
    """The two areas whose ratio is the AJI: what is shared, and what is covered in all; they add up over slides.

    Each true nucleus takes the found one of largest IoU; found ones that nobody took count in full against, if they are
    ``judged`` (P,), see ``detection.Matches``.
    """
    order = np.lexsort((-overlaps.found, overlaps.iou))  # of equals the first found one stays
    best = np.full(len(overlaps.true_area), -1)
    best[overlaps.true[order]] = order  # of several assignments to one place the last stays
    pairs = best[best >= 0]
    unused = np.ones(len(overlaps.found_area), bool) if judged is None else judged.copy()
    unused[overlaps.found[pairs]] = False
    covered = overlaps.union[pairs].sum() + overlaps.true_area[best < 0].sum() + overlaps.found_area[unused].sum()
    return np.array([overlaps.shared[pairs].sum(), covered], float)


def jaccard_ratio(areas: np.ndarray) -> np.ndarray:
    """AJI (...) of areas (..., 2); 1 where nothing is there and nothing was found."""
    shared, covered = np.moveaxis(np.asarray(areas, float), -1, 0)
    return np.divide(shared, covered, out=np.ones_like(shared), where=covered > 0)
