"""A watershed without flooding: every pixel of a mask climbs a relief to the peak of its nucleus."""

from __future__ import annotations

import cv2
import numpy as np

from muse_pipeline.nuclei.masks import drop_small_labels

SMOOTH_UM = 0.75  # sigma; without smoothing, ragged outlines would make peaks
APART_UM = 2.5  # a peak this close to a higher one in the same component is joined to that one
MIN_NUCLEUS_UM2 = 9.0  # a disc 3.4 um in diameter; small lymphocytes have 20 um2


def cut_relief(mask: np.ndarray, relief: np.ndarray, mpp: float) -> np.ndarray:
    """Split a mask into nuclei.

    Args:
        mask: (h, w) bool.
        relief: (h, w) numbers in any unit, high in the middle of nuclei.
        mpp: um per pixel.

    Returns:
        (h, w) int32, 1..N in raster order of the peaks, 0 elsewhere; components below 9 um2 are dropped.
    """
    reach = max(int(APART_UM / mpp), 1)
    # With the padding, all positions within ``reach`` exist; those beyond the picture are outside the mask.
    framed = np.pad(mask, reach)
    inside = np.flatnonzero(framed)
    rising = np.argsort(relief[mask], kind="stable")
    pixels = inside[rising]  # below, a pixel is identified by its rank, which is unique
    rank = np.full(framed.shape, -1, np.int32)
    rank.flat[pixels] = np.arange(len(pixels), dtype=np.int32)
    component = cv2.connectedComponents(framed.astype(np.uint8))[1]
    goal = _step_up(rank, pixels)
    goal = _join_peaks(goal, rank, pixels, component, reach)
    while not np.array_equal(further := goal[goal], goal):  # each pass doubles the number of steps
        goal = further
    labels = np.zeros(framed.size, np.int32)
    labels[pixels] = np.unique(pixels[goal], return_inverse=True)[1] + 1
    labels = labels.reshape(framed.shape)[reach:-reach, reach:-reach]
    return drop_small_labels(labels, MIN_NUCLEUS_UM2 / mpp**2)


def depth_um(mask: np.ndarray, mpp: float) -> np.ndarray:
    """(h, w) float32: distance in um to the edge of a mask (h, w), smoothed."""
    framed = np.pad(mask.astype(np.uint8), 1, mode="edge")  # nuclei continue beyond the picture
    depth = cv2.distanceTransform(framed, cv2.DIST_L2, 5)[1:-1, 1:-1] * mpp
    return cv2.GaussianBlur(depth, (0, 0), SMOOTH_UM / mpp)


def _step_up(rank: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """(n,) highest rank among each pixel and its eight neighbours; a peak keeps its own rank."""
    flat, row = rank.ravel(), rank.shape[1]
    highest = np.arange(len(pixels), dtype=np.int32)
    for shift in (-row - 1, -row, 1 - row, -1, 1, row - 1, row, row + 1):
        np.maximum(highest, flat[pixels + shift], out=highest)
    return highest


def _join_peaks(
    goal: np.ndarray, rank: np.ndarray, pixels: np.ndarray, component: np.ndarray, reach: int
) -> np.ndarray:
    """Move peaks to the highest pixel within ``reach`` pixels in their component of the mask."""
    peaks = np.flatnonzero(goal == np.arange(len(goal)))
    flat, owner, highest = rank.ravel(), component.ravel(), peaks.astype(np.int32)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            if dy * dy + dx * dx <= reach * reach:
                there = pixels[peaks] + dy * rank.shape[1] + dx
                same = owner[there] == owner[pixels[peaks]]
                np.maximum(highest, np.where(same, flat[there], -1), out=highest)
    goal = goal.copy()
    goal[peaks] = highest
    return goal
