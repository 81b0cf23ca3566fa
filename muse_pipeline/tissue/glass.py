"""The colour of empty glass, and how much each pixel absorbs beyond it."""

from __future__ import annotations

import cv2
import numpy as np

from muse_pipeline.tissue.strips import map_strips, strips

DEFAULT_GLASS = 243.0  # where a picture is tissue from wall to wall
MIN_GLASS = 195  # of 255, in every channel
MAX_ROUGHNESS = 1.5  # grey levels among neighbours, at 8 um a pixel: glass has 0.3 to 1.2, the palest stroma 2 to 10
# (tint between the channels, share of the picture): glass is nearly white, or it is tinted by the scanner and then over
# much of the picture
KINDS = ((10, 0.02), (35, 0.2))
FREQUENT = 0.1  # of the candidates, within +-1 grey level


def estimate_glass(pixels: np.ndarray) -> np.ndarray:
    """The colour of glass in (h, w, 3) uint8: (3,) float, the brightest frequent one that is pale and flat."""
    low, high = pixels.min(-1), pixels.max(-1)
    pale = (low >= MIN_GLASS) & (low < 255)  # pure white is padding
    flat = pale & map_strips(lambda grey: measure_roughness(grey) < MAX_ROUGHNESS, pixels[..., 1], halo=1)
    for max_tint, min_share in KINDS:
        candidates = flat & (high - low <= max_tint)
        counts = count_levels(pixels, candidates)[1]
        if counts.sum() >= max(min_share * (low < 255).sum(), 1):
            frequent = np.convolve(counts, np.ones(3), "same") >= FREQUENT * counts.sum()
            green = int(np.flatnonzero(frequent).max())
            near = (pixels[..., 1] >= max(green - 2, 0)) & (pixels[..., 1] <= min(green + 2, 255))
            return np.array([median_level(levels) for levels in count_levels(pixels, candidates & near)])
    return np.full(3, DEFAULT_GLASS)


def count_levels(pixels: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """(3, 256) how often each level occurs in each channel of the ``chosen`` (h, w) of (h, w, 3) uint8 pixels."""
    counts = np.zeros((3, 256), int)
    for strip in strips(len(pixels)):
        part = pixels[strip][chosen[strip]]
        counts += [np.bincount(channel, minlength=256) for channel in part.T]
    return counts


def median_level(counts: np.ndarray) -> float:
    """The median of levels of which there are so many (256,), one or more."""
    until, n = counts.cumsum(), counts.sum()
    return float(np.mean([np.searchsorted(until, rank, side="right") for rank in ((n - 1) // 2, n // 2)]))


def measure_roughness(grey: np.ndarray) -> np.ndarray:
    """(h, w) float32, standard deviation among the 3 x 3 neighbours of each pixel of (h, w) uint8."""
    values = grey.astype(np.float32)
    mean = cv2.blur(values, (3, 3))
    return np.sqrt(np.maximum(cv2.blur(values * values, (3, 3)) - mean * mean, 0))


def absorbed(pixels: np.ndarray, glass: np.ndarray) -> np.ndarray:
    """Optical density (natural log) of (h, w, 3) uint8 beyond ``glass``, float32, not below 0."""
    steps = np.arange(1, 257, dtype=np.float32)
    tables = np.maximum(np.log((np.asarray(glass)[:, None] + 1) / steps), 0).astype(np.float32)
    return np.stack([table[pixels[..., i]] for i, table in enumerate(tables)], -1)
