"""Bits too small to be tissue, gaps too small to be glass."""

from __future__ import annotations

import cv2
import numpy as np

JOIN_UM = 16.0  # cracks and thin walls of fat
MIN_PIECE_UM2 = 5_000.0  # 70 x 70 um, some 50 nuclei
MIN_HOLE_UM2 = 30_000.0  # a large fat cell is 8,000, a small vessel 20,000
MIN_PIECE_SHARE = 0.02  # of a small picture


def tidy(mask: np.ndarray, mpp: np.ndarray) -> np.ndarray:
    """Join what nearly touches, drop specks, fill holes of (h, w) bool; areas in um2."""
    pixel_um2 = float(np.prod(mpp))
    joined = _close(mask, np.maximum(np.round(JOIN_UM / np.asarray(mpp)), 1).astype(int))
    least_um2 = min(MIN_PIECE_UM2, MIN_PIECE_SHARE * mask.size * pixel_um2)
    pieces = drop_small(joined, least_um2 / pixel_um2)
    return ~drop_small(~pieces, MIN_HOLE_UM2 / pixel_um2, connectivity=4, keep_at_border=True)


def drop_small(mask: np.ndarray, min_pixels: float, connectivity: int = 8, keep_at_border: bool = False) -> np.ndarray:
    """(h, w) bool without its components of fewer than ``min_pixels``."""
    _, components, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=connectivity)
    large = stats[:, cv2.CC_STAT_AREA] >= min_pixels
    if keep_at_border:
        edge = np.concatenate([components[0], components[-1], components[:, 0], components[:, -1]])
        large[edge] |= stats[edge, cv2.CC_STAT_AREA] >= min_pixels / 8
    large[0] = False
    return large[components]


def _close(mask: np.ndarray, radius_px: np.ndarray) -> np.ndarray:
    """Morphological closing as if the picture went on beyond its border."""
    x, y = (int(r) for r in radius_px)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * x + 1, 2 * y + 1))
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), y, y, x, x, cv2.BORDER_REPLICATE)
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, disc)
    return closed[y : y + mask.shape[0], x : x + mask.shape[1]] > 0
