"""Round dark things: maxima of the scale-normalised Laplacian of Gaussian over a few radii.

Lindeberg, "Feature detection with automatic scale selection", IJCV 1998. A disc of radius r answers most strongly at
sigma = r / sqrt(2). The answer is further weighted by the radius, because a large nucleus is full of dark grains that
each look like a small one.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy.spatial import cKDTree

GRAIN = 0.7  # maxima of one radius lie at least this share of it apart
REFERENCE_UM = 4.0  # radius whose answer is not weighted


def find_blobs(
    density: np.ndarray, mpp: float, radii_um: tuple[float, ...], min_distance_um: float, least: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blobs of (h, w) float32 ``density``, strongest first.

    Only answers above ``least`` count. Of blobs nearer than the stronger one's radius, or than ``min_distance_um``,
    the stronger stays.

    Returns:
        xy (N, 2) float64 in px, pixel (0, 0) centred on (0.5, 0.5); answer (N,) and radius (N,) in um.
    """
    found = [_maxima_of_radius(density, mpp, radius, least) for radius in radii_um]
    xy = np.concatenate([each[0] for each in found])
    answer = np.concatenate([each[1] for each in found])
    radius = np.repeat(radii_um, [len(each[1]) for each in found])
    order = np.lexsort((xy[:, 0], xy[:, 1], -answer))
    xy, answer, radius = xy[order], answer[order], radius[order]
    kept = _suppress(xy * mpp, np.maximum(radius, min_distance_um))
    return xy[kept], answer[kept], radius[kept]


def _maxima_of_radius(density: np.ndarray, mpp: float, radius_um: float, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Maxima (N, 2) in px of one radius and their weighted answers (N,)."""
    sigma = radius_um / mpp / np.sqrt(2)
    smooth = cv2.GaussianBlur(density, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
    answer = cv2.Laplacian(smooth, cv2.CV_32F, ksize=1, scale=-sigma * sigma * radius_um / REFERENCE_UM)
    reach = max(1, round(GRAIN * radius_um / mpp))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    row, column = np.nonzero((answer >= cv2.dilate(answer, disc)) & (answer > least))
    return _between_pixels(answer, row, column), answer[row, column]


def _between_pixels(answer: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Vertices (N, 2) x, y of the parabolas through each maximum and its neighbours."""
    padded = cv2.copyMakeBorder(answer, 1, 1, 1, 1, cv2.BORDER_REPLICATE).astype(np.float64)
    top = padded[row + 1, column + 1]
    shifts = []
    for before, after in (
        (padded[row + 1, column], padded[row + 1, column + 2]),
        (padded[row, column + 1], padded[row + 2, column + 1]),
    ):
        bend = np.maximum(2 * top - before - after, 1e-12)
        shifts.append(np.clip((after - before) / (2 * bend), -0.5, 0.5))
    return np.stack([column + 0.5 + shifts[0], row + 0.5 + shifts[1]], 1)


def _suppress(xy_um: np.ndarray, reach_um: np.ndarray) -> np.ndarray:
    """Which of (N, 2) positions, best first, no better one that stays reaches: (N,) bool."""
    kept = np.ones(len(xy_um), bool)
    if len(xy_um) < 2:
        return kept
    pairs = cKDTree(xy_um).query_pairs(reach_um.max(), output_type="ndarray")  # better index first
    distance = np.hypot(*(xy_um[pairs[:, 0]] - xy_um[pairs[:, 1]]).T)
    pairs = pairs[distance < reach_um[pairs[:, 0]]]
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    first = np.searchsorted(pairs[:, 0], np.arange(len(kept) + 1)).tolist()
    for better in np.unique(pairs[:, 0]).tolist():
        if kept[better]:
            kept[pairs[first[better] : first[better + 1], 1]] = False
    return kept
