"""Bits too small to be tissue, gaps too small to be glass."""

from __future__ import annotations

import cv2
import numpy as np

from muse_pipeline.tissue.components import Components
from muse_pipeline.tissue.strips import map_strips

JOIN_UM = 16.0  # cracks and thin walls of fat
MIN_PIECE_UM2 = 5_000.0  # 70 x 70 um, some 50 nuclei
MIN_HOLE_UM2 = 30_000.0  # a large fat cell is 8,000, a small vessel 20,000
MIN_PIECE_SHARE = 0.02  # of a small picture


def tidy(mask: np.ndarray, mpp: np.ndarray) -> np.ndarray:
    """Join what nearly touches, drop specks, fill holes of (h, w) bool; areas in um2."""
    pixel_um2 = float(np.prod(mpp))
    least_um2 = min(MIN_PIECE_UM2, MIN_PIECE_SHARE * mask.size * pixel_um2)
    mask = _close(mask, np.maximum(np.round(JOIN_UM / np.asarray(mpp)), 1).astype(int))
    mask = drop_small(mask, least_um2 / pixel_um2)
    glass = drop_small(np.logical_not(mask, out=mask), MIN_HOLE_UM2 / pixel_um2, connectivity=4, keep_at_border=True)
    return np.logical_not(glass, out=glass)


def drop_small(mask: np.ndarray, min_pixels: float, connectivity: int = 8, keep_at_border: bool = False) -> np.ndarray:
    """(h, w) bool without its components of fewer than ``min_pixels``."""
    components = Components(mask, connectivity)
    area, at_border = np.zeros(components.n, int), np.zeros(components.n, bool)
    for strip, number in components:
        area += np.bincount(number.ravel(), minlength=components.n)
        at_border[number[:, [0, -1]]] = True
        at_border[number[[row - strip.start for row in (0, len(mask) - 1) if strip.start <= row < strip.stop]]] = True
    large = area >= min_pixels
    if keep_at_border:
        large |= at_border & (area >= min_pixels / 8)
    large[0] = False
    return components.choose(large)


def _close(mask: np.ndarray, radius_px: np.ndarray) -> np.ndarray:
    """Morphological closing as if the picture went on beyond its border."""
    x, y = (int(r) for r in radius_px)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * x + 1, 2 * y + 1))
    pixels = np.ascontiguousarray(mask).view(np.uint8)
    pixels = cv2.copyMakeBorder(pixels, y, y, x, x, cv2.BORDER_REPLICATE)
    pixels = map_strips(lambda strip: cv2.morphologyEx(strip, cv2.MORPH_CLOSE, disc), pixels, halo=2 * y)
    return np.ascontiguousarray(pixels[y : y + mask.shape[0], x : x + mask.shape[1]]).view(bool)
