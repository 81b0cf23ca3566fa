"""Outlines against instance masks: Dice of matched nuclei and the aggregated Jaccard index (AJI)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from scipy import ndimage
from scipy.optimize import linear_sum_assignment


@dataclass(frozen=True)
class OutlineScores:
    """Scores of one picture.

    Attributes:
        dice: (M,) Dice of each matched pair.
        aji: aggregated Jaccard index of the picture (Kumar et al., IEEE TMI 2017).
    """

    dice: np.ndarray
    aji: float


def rings_to_labels(rings: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Paint rings (N, R, 2), in pixels, as labels 1..N of a (h, w) int32 picture; a later one lies above an earlier.

    A pixel belongs to a ring that holds its centre. Drawing libraries paint every pixel that an outline touches: half a
    pixel too much all around, an eighth of the area of a nucleus of 16 px.
    """
    labels = np.zeros(shape, np.int32)
    height, width = shape
    for index, ring in enumerate(np.asarray(rings, float), 1):
        left, top = np.floor(ring.min(0)).astype(int).clip(0, (width, height))
        right, bottom = np.ceil(ring.max(0)).astype(int).clip(0, (width, height))
        y, x = np.mgrid[top:bottom, left:right] + 0.5
        labels[top:bottom, left:right][shapely.contains_xy(shapely.Polygon(ring), x, y)] = index
    return labels


def score_outlines(predicted: np.ndarray, true: np.ndarray, radius_px: float) -> OutlineScores:
    """Compare two label pictures (h, w), 0 background.

    Pairs for Dice are matched one-to-one by the Hungarian method on intersection over union, and count if they touch
    and their centroids lie within ``radius_px``.
    """
    overlap = _overlaps(predicted, true)  # (P, T)
    predicted_area, true_area = overlap.sum(1), overlap.sum(0)
    inner = overlap[1:, 1:]
    union = predicted_area[1:, None] + true_area[None, 1:] - inner
    iou = inner / np.maximum(union, 1)
    rows, columns = linear_sum_assignment(-iou)
    apart = np.hypot(*(_centroids(predicted)[rows] - _centroids(true)[columns]).T)
    matched = (inner[rows, columns] > 0) & (apart <= radius_px)
    rows, columns = rows[matched], columns[matched]
    dice = 2 * inner[rows, columns] / (predicted_area[1:][rows] + true_area[1:][columns])
    return OutlineScores(dice, _aggregated_jaccard(inner, union, iou, predicted_area[1:], true_area[1:]))


def _centroids(labels: np.ndarray) -> np.ndarray:
    """(N, 2) as (row, column), in ascending order of the labels."""
    ids = np.unique(labels[labels > 0])
    return np.array(ndimage.center_of_mass(labels > 0, labels, ids)).reshape(-1, 2)


def _overlaps(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Pixel counts of every pair of labels, background included: (P + 1, T + 1), labels renumbered without gaps."""
    _, first = np.unique(np.append(0, predicted.ravel()), return_inverse=True)
    _, second = np.unique(np.append(0, true.ravel()), return_inverse=True)
    counts = np.zeros((first.max() + 1, second.max() + 1), int)
    np.add.at(counts, (first[1:], second[1:]), 1)
    return counts


def _aggregated_jaccard(
    inner: np.ndarray, union: np.ndarray, iou: np.ndarray, predicted_area: np.ndarray, true_area: np.ndarray
) -> float:
    """Each true nucleus takes the prediction of largest IoU; predictions never taken count in full against."""
    if not len(true_area) or not len(predicted_area):
        return 1.0 if len(true_area) == len(predicted_area) else 0.0
    best = iou.argmax(0)
    found = iou.max(0) > 0
    columns = np.arange(len(true_area))
    shared = inner[best, columns][found].sum()
    together = union[best, columns][found].sum() + true_area[~found].sum()
    unused = np.setdiff1d(np.arange(len(predicted_area)), best[found])
    return float(shared / (together + predicted_area[unused].sum()))
