"""Cellpose: flows towards the middle of nuclei (Stringer et al., Nature Methods 2021)."""

from __future__ import annotations

import cv2
import numpy as np
from numpy import ndarray
from scipy.special import expit

from muse_pipeline.inference.card import ImportedCard
from muse_pipeline.inference.families import FAMILIES
from muse_pipeline.inference.maps import Family, Map, nuclei_of_labels, nucleus_mask
from muse_pipeline.nuclei.masks import MIN_NUCLEUS_UM2, drop_small_labels
from muse_pipeline.nuclei.table import Nuclei

FLOW = 5.0  # length of the unit vector in the network's output
N_STEPS = 200  # steps along the flows
ROW = 256  # pixels in a row of positions, because OpenCV maps pictures, not lists
# side of the square in which a peak of ends is the highest, with more ends than this
PEAK_PX, LEAST_HIGHEST = 5, 10
GROWTH_PX, LEAST_ENDS = 5, 2  # a peak grows this far, over pixels where more paths end than this
# mean squared difference between flows and the directions to the middle of a nucleus
LARGEST_ERROR = 0.4


@FAMILIES.register("cellpose")
class Cellpose(Family):
    """Nuclei of the pixels whose paths along the flows end together."""

    has_classes = False

    def list_maps(self, n_classes: int) -> list[Map]:
        """See ``Family``; the channels are the vertical and horizontal flow, and the logit of a
        nucleus.
        """
        return [Map("flows", "flows and nucleus", (3,))]

    def decode(self, maps: list[ndarray], card: ImportedCard) -> Nuclei:
        """See ``Family``."""
        nucleus = expit(maps[0][2])
        flows = np.nan_to_num(maps[0][:2]) / FLOW
        labels = _drop_unlike(_gather(flows, nucleus_mask(nucleus, card)), flows)
        labels = drop_small_labels(labels, MIN_NUCLEUS_UM2 / (card.mpp * card.stride_px) ** 2)
        return nuclei_of_labels(labels, nucleus, None, card)


def _gather(flows: ndarray, mask: ndarray) -> ndarray:
    """(h, w) int32: the number of the peak of ends at which the path of each pixel of the mask
    ends; 0 elsewhere.
    """
    labels, pixels = np.zeros(mask.shape, np.int32), np.nonzero(mask)
    rows, columns = np.rint(_follow(flows, np.stack(pixels).astype(np.float32))).astype(int)
    ends = np.zeros(mask.shape, np.float32)
    np.add.at(ends, (rows, columns), 1)
    labels[pixels] = _grow_peaks(ends)[rows, columns]
    return labels


def _follow(flows: ndarray, position: ndarray) -> ndarray:
    """The ends (2, P) of paths from positions (2, P) in rows and columns."""
    n = position.shape[1]
    last = np.reshape(flows.shape[1:], (2, 1, 1)).astype(np.float32) - 1
    position = np.pad(position, ((0, 0), (0, -n % ROW))).reshape(2, -1, ROW)
    for _ in range(N_STEPS if n else 0):
        there = [cv2.remap(flow, position[1], position[0], cv2.INTER_LINEAR) for flow in flows]
        position = (position + there).clip(0, last)
    return position.reshape(2, -1)[:, :n]


def _grow_peaks(ends: ndarray) -> ndarray:
    """(h, w) int32: the pixels of each peak of the number of ``ends`` (h, w), numbered by ascending
    height.
    """
    around = np.ones((PEAK_PX, PEAK_PX), np.uint8)
    rows, columns = np.nonzero((ends == cv2.dilate(ends, around)) & (ends > LEAST_HIGHEST))
    peaks = np.zeros(ends.shape, np.float32)
    peaks[rows, columns] = ends[rows, columns].argsort(kind="stable").argsort(kind="stable") + 1
    peaks[peaks < cv2.dilate(peaks, around)] = 0  # of equal peaks close together, one remains
    for _ in range(GROWTH_PX):
        grown = cv2.dilate(peaks, np.ones((3, 3), np.uint8))
        peaks = np.where((peaks == 0) & (ends > LEAST_ENDS), grown, peaks)
    return peaks.astype(np.int32)


def _drop_unlike(labels: ndarray, flows: ndarray) -> ndarray:
    """Drop nuclei whose flows do not lead to their middle."""
    pixels = np.nonzero(labels)
    owner = labels[pixels]
    n_pixels = np.bincount(labels.ravel()).clip(1)
    away = [
        along - (np.bincount(owner, along, len(n_pixels)) / n_pixels)[owner] for along in pixels
    ]
    length = np.hypot(*away).clip(1)
    squared = sum(
        (flow[pixels] + part / length) ** 2 for flow, part in zip(flows, away, strict=True)
    )
    error = np.bincount(owner, squared, len(n_pixels)) / n_pixels
    return np.where(error[labels] > LARGEST_ERROR, 0, labels)
