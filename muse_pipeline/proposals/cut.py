"""A mask cut into nuclei where it is narrow or pale: every pixel climbs to a peak, and a peak is a nucleus."""

from __future__ import annotations

import cv2
import numpy as np
from scipy import ndimage

SMOOTH_UM = 0.75  # of the depth: the grain of an outline makes no peaks
RADIUS_UM = 2.5  # of the blobs that the stain is searched for: a small nucleus
APART_UM = 2.5  # a peak that sees a higher one this near, in its own piece of the mask, is part of it
STAIN_SHARE = 0.5  # of the blob filter in units of its spread, against depth in units of ``RADIUS_UM``
MIN_NUCLEUS_UM2 = 12.0  # a disc of 3.9 um: small lymphocytes have 20
_AROUND = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]


def cut_mask(mask: np.ndarray, density: np.ndarray, mpp: float) -> np.ndarray:
    """Split a mask into nuclei, by a watershed without flooding.

    The relief is the depth within the mask, smoothed, plus the Laplacian of Gaussian of the stain at nuclear radius:
    nuclei that touch part where the mask has a neck, or where it is paler between them.

    Args:
        mask: (h, w) bool.
        density: (h, w) float32, optical density of the stain of nuclei.
        mpp: um per pixel.

    Returns:
        (h, w) int32, 1..N in raster order of the peaks, 0 elsewhere; pieces below 12 um2 are dropped.
    """
    if not mask.any():
        return np.zeros(mask.shape, np.int32)
    height = _rank(_relief(mask, density, mpp), mask)
    pieces = ndimage.label(mask, np.ones((3, 3)))[0]
    goal = _join_peaks(_step_up(height), height, pieces, APART_UM / mpp)
    while not np.array_equal(further := goal[goal], goal):  # twice as far each time
        goal = further
    labels = np.zeros(mask.size, np.int32)
    inside = np.flatnonzero(mask)
    labels[inside] = np.unique(goal[inside], return_inverse=True)[1] + 1
    return _drop_small(labels, MIN_NUCLEUS_UM2 / mpp**2).reshape(mask.shape)


def _relief(mask: np.ndarray, density: np.ndarray, mpp: float) -> np.ndarray:
    """(h, w) float32 without unit; high in the middle of nuclei."""
    framed = np.pad(mask.astype(np.uint8), 1, mode="edge")  # a nucleus goes on beyond the picture
    depth = cv2.distanceTransform(framed, cv2.DIST_L2, 5)[1:-1, 1:-1] * mpp
    depth = cv2.GaussianBlur(depth, (0, 0), SMOOTH_UM / mpp)
    blurred = cv2.GaussianBlur(density.astype(np.float32), (0, 0), RADIUS_UM / np.sqrt(2) / mpp)
    blobs = -cv2.Laplacian(blurred, cv2.CV_32F)
    return depth / RADIUS_UM + STAIN_SHARE * blobs / max(float(blobs.std()), 1e-9)


def _rank(relief: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(h, w) int32: the place of each pixel of the mask in order of relief, so that no two are equal; -1 outside."""
    inside = np.flatnonzero(mask)
    rank = np.full(mask.shape, -1, np.int32)
    rank.flat[inside[np.argsort(relief.flat[inside], kind="stable")]] = np.arange(len(inside), dtype=np.int32)
    return rank


def _step_up(height: np.ndarray) -> np.ndarray:
    """(h * w,) index of the highest of each pixel and its eight neighbours."""
    rows, columns = height.shape
    framed = np.pad(height, 1, constant_values=-1)
    highest, step = height.copy(), np.zeros(height.shape, np.int64)
    for dy, dx in _AROUND:
        there = framed[1 + dy : 1 + dy + rows, 1 + dx : 1 + dx + columns]
        higher = there > highest
        highest[higher] = there[higher]
        step[higher] = dy * columns + dx
    return np.arange(height.size) + step.ravel()


def _join_peaks(goal: np.ndarray, height: np.ndarray, pieces: np.ndarray, reach_px: float) -> np.ndarray:
    """Let peaks go on to the highest pixel within ``reach_px`` in their own piece of the mask."""
    rows, columns = height.shape
    peak = np.flatnonzero((goal == np.arange(len(goal))) & (height.ravel() >= 0))
    row, column = np.divmod(peak, columns)
    goal, best = goal.copy(), height.flat[peak]
    reach = int(reach_px)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            if dy * dy + dx * dx > reach_px * reach_px:
                continue
            there = np.clip(row + dy, 0, rows - 1) * columns + np.clip(column + dx, 0, columns - 1)
            higher = (height.flat[there] > best) & (pieces.flat[there] == pieces.flat[peak])
            best = np.where(higher, height.flat[there], best)
            goal[peak[higher]] = there[higher]
    return goal


def _drop_small(labels: np.ndarray, min_pixels: float) -> np.ndarray:
    """Labels (n,) of at least ``min_pixels``, numbered 1..N in their order."""
    kept = np.bincount(labels) >= min_pixels
    kept[0] = False
    return np.where(kept, np.cumsum(kept), 0).astype(np.int32)[labels]
