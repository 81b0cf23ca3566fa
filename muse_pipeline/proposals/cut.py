"""A mask cut into nuclei where it is narrow or pale: every pixel climbs to a peak, and a peak is a nucleus."""

from __future__ import annotations

import cv2
import numpy as np

SMOOTH_UM = 0.75  # of the depth: the grain of an outline makes no peaks
# Chosen, with the blur of ``otsu``, by the points of BRCA-M2C's training pictures (docs/psm.md).
RADIUS_UM = 3.0  # of the blobs that the stain is searched for: a small nucleus
APART_UM = 2.5  # a peak that sees a higher one this near, in its own piece of the mask, is part of it
STAIN_SHARE = 0.5  # of the blob filter in units of its spread, against depth in units of ``RADIUS_UM``
MIN_NUCLEUS_UM2 = 9.0  # a disc of 3.4 um: small lymphocytes have 20


def cut_mask(mask: np.ndarray, density: np.ndarray, mpp: float, spread: float | None = None) -> np.ndarray:
    """Split a mask into nuclei, by a watershed without flooding.

    The relief is the depth within the mask, smoothed, plus the Laplacian of Gaussian of the stain at nuclear radius:
    nuclei that touch part where the mask has a neck, or where it is paler between them.

    Args:
        mask: (h, w) bool.
        density: (h, w) float32, optical density of the stain of nuclei.
        mpp: um per pixel.
        spread: standard deviation of ``blob_answer`` over the slide, so that its windows are cut alike; that of this
            density where None.

    Returns:
        (h, w) int32, 1..N in raster order of the peaks, 0 elsewhere; pieces below 9 um2 are dropped.
    """
    reach = max(int(APART_UM / mpp), 1)
    framed = np.pad(mask, reach)
    inside = np.flatnonzero(framed)
    relief = _relief(mask, density, mpp, spread)[mask]
    place = inside[np.argsort(relief, kind="stable")]  # from here on a pixel is its rank, so that no two are equal
    rank = np.full(framed.shape, -1, np.int32)
    rank.flat[place] = np.arange(len(place), dtype=np.int32)
    piece = cv2.connectedComponents(framed.astype(np.uint8))[1]
    goal = _step_up(rank, place)
    goal = _join_peaks(goal, rank, place, piece, reach)
    while not np.array_equal(further := goal[goal], goal):  # twice as far each time
        goal = further
    labels = np.zeros(framed.size, np.int32)
    labels[place] = np.unique(place[goal], return_inverse=True)[1] + 1
    labels = labels.reshape(framed.shape)[reach:-reach, reach:-reach]
    return drop_small_labels(labels, MIN_NUCLEUS_UM2 / mpp**2)


def blob_answer(density: np.ndarray, mpp: float) -> np.ndarray:
    """(h, w) float32: minus the Laplacian of Gaussian of a density (h, w) at the radius of a small nucleus."""
    blurred = cv2.GaussianBlur(density.astype(np.float32), (0, 0), RADIUS_UM / np.sqrt(2) / mpp)
    return -cv2.Laplacian(blurred, cv2.CV_32F)


def _relief(mask: np.ndarray, density: np.ndarray, mpp: float, spread: float | None) -> np.ndarray:
    """(h, w) float32 without unit; high in the middle of nuclei."""
    framed = np.pad(mask.astype(np.uint8), 1, mode="edge")  # a nucleus goes on beyond the picture
    depth = cv2.distanceTransform(framed, cv2.DIST_L2, 5)[1:-1, 1:-1] * mpp
    depth = cv2.GaussianBlur(depth, (0, 0), SMOOTH_UM / mpp)
    blobs = blob_answer(density, mpp)
    return depth / RADIUS_UM + STAIN_SHARE * blobs / max(float(blobs.std()) if spread is None else spread, 1e-9)


def _step_up(rank: np.ndarray, place: np.ndarray) -> np.ndarray:
    """(n,) rank of the highest of each pixel and its eight neighbours; a peak's own."""
    flat, row = rank.ravel(), rank.shape[1]
    highest = np.arange(len(place), dtype=np.int32)
    for shift in (-row - 1, -row, 1 - row, -1, 1, row - 1, row, row + 1):
        np.maximum(highest, flat[place + shift], out=highest)
    return highest


def _join_peaks(goal: np.ndarray, rank: np.ndarray, place: np.ndarray, piece: np.ndarray, reach: int) -> np.ndarray:
    """Let peaks go on to the highest pixel within ``reach`` pixels in their own piece of the mask."""
    peaks = np.flatnonzero(goal == np.arange(len(goal)))
    flat, owner, highest = rank.ravel(), piece.ravel(), peaks.astype(np.int32)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            if dy * dy + dx * dx <= reach * reach:
                there = place[peaks] + dy * rank.shape[1] + dx
                same = owner[there] == owner[place[peaks]]
                np.maximum(highest, np.where(same, flat[there], -1), out=highest)
    goal = goal.copy()
    goal[peaks] = highest
    return goal


def drop_small_labels(labels: np.ndarray, min_pixels: float) -> np.ndarray:
    """(h, w) int32: labels of at least ``min_pixels``, numbered 1..N in their order."""
    kept = np.bincount(labels.ravel()) >= min_pixels
    kept[0] = False
    return np.where(kept, np.cumsum(kept), 0).astype(np.int32)[labels]
