"""StarDist: a probability, and rays around every point (Schmidt et al., MICCAI 2018)."""

from __future__ import annotations

import cv2
import numpy as np
from numpy import ndarray

from muse_pipeline.inference.card import ImportedCard
from muse_pipeline.inference.families import FAMILIES
from muse_pipeline.inference.maps import Family, Map, nuclei_table, probabilities
from muse_pipeline.nuclei.table import Nuclei

# half the side of the square around a peak in which no point has a higher probability
PEAK_UM = 1.0


@FAMILIES.register("stardist")
class StarDist(Family):
    """Nuclei at the peaks of the probability; if a nucleus has several peaks, ``nuclei.pairs``
    keeps the best one.
    """

    def list_maps(self, n_classes: int) -> list[Map]:
        """See ``Family``."""
        return self.with_classes(
            [Map("prob", "nucleus", (1,)), Map("dist", "rays", ())], "prob_class", n_classes
        )

    def split(self, joint: ndarray, n_classes: int) -> list[ndarray]:
        """See ``Family``."""
        n_rays = joint.shape[1] - 1 - (n_classes + 1 if n_classes > 1 else 0)
        if n_rays > 0:
            return np.split(joint, (1, 1 + n_rays), axis=1)[: 3 if n_classes > 1 else 2]
        return [joint]

    def count_rays(self, maps: list[ndarray]) -> int:
        """See ``Family``."""
        return maps[1].shape[1]

    def decode(self, maps: list[ndarray], card: ImportedCard) -> Nuclei:
        """See ``Family``."""
        score = probabilities(maps[0], card)[0]
        reach = max(round(PEAK_UM / card.mpp / card.stride_px), 1)
        row, column = np.nonzero(_find_peaks(score, maps[1].min(0), card.threshold, reach))
        rays = maps[1][:, row, column].T.clip(0) * np.float32(card.mpp)
        # centre of the first pixel of a cell, not of the cell
        xy = np.stack([column, row], 1) * card.stride_px + 0.5
        classes = probabilities(maps[2], card)[:, row, column] if len(maps) > 2 else None
        return nuclei_table(xy, rays, score[row, column], classes, card)


def _find_peaks(score: ndarray, shortest: ndarray, threshold: float, reach: int) -> ndarray:
    """(h, w) bool: pixels with the highest score within ``reach`` pixels.

    Where scores are equal, as where a network in half precision saturates, the pixel with the
    longest ``shortest`` ray (h, w) is the peak; if these are equal too, the pixel deepest in the
    plateau, and of several the one in the middle.
    """
    around = np.ones((2 * reach + 1,) * 2, np.uint8)
    peaks = (score >= threshold) & (score == cv2.dilate(score, around))
    depth = cv2.distanceTransform(peaks.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    for height in (shortest, depth):
        of_peaks = np.where(peaks, height, -np.inf)
        peaks &= of_peaks == cv2.dilate(of_peaks, around)
    joined = cv2.dilate(peaks.view(np.uint8), np.ones((2 * (reach // 2) + 1,) * 2, np.uint8))
    row, column = np.nonzero(peaks)
    _, labels, _, middle = cv2.connectedComponentsWithStats(joined, connectivity=8)
    label = labels[row, column]
    near = np.lexsort((np.hypot(*(middle[label] - np.stack([column, row], 1)).T), label))
    first = near[np.unique(label[near], return_index=True)[1]]
    peaks[:] = False
    peaks[row[first], column[first]] = True
    return peaks
