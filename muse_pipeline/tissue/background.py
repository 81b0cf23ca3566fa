"""The colour of empty glass, and how much each pixel absorbs beyond it."""

from __future__ import annotations

import cv2
import numpy as np

from muse_pipeline.slides.base import WHITE
from muse_pipeline.tissue.overview import map_strips, strips

DEFAULT_GLASS = 243.0  # where a picture is tissue from wall to wall
MIN_GLASS = 195  # of 255, in every channel
MAX_ROUGHNESS = 1.5  # grey levels among neighbours, at 8 um a pixel: glass has 0.3 to 1.2, the palest stroma 2 to 10
# (tint between the channels, share of the picture): glass is nearly white, or it is tinted by the scanner and then over
# much of the picture
KINDS = ((10, 0.02), (35, 0.2))
FREQUENT = 0.1  # of the candidates, within +-1 grey level


def estimate_glass(pixels: np.ndarray) -> np.ndarray:
    """The colour of glass in (h, w, 3) uint8: (3,) float, the brightest frequent one that is pale and flat."""
    candidates = map_strips(_is_pale_and_flat, pixels, halo=1)
    n_scanned = sum(int((lowest(pixels[strip]) < WHITE).sum()) for strip in strips(len(pixels)))
    for max_tint, min_share in KINDS:
        counts = count_levels(pixels, candidates, max_tint)[1]
        if counts.sum() >= max(min_share * n_scanned, 1):
            frequent = np.convolve(counts, np.ones(3), "same") >= FREQUENT * counts.sum()
            green = int(np.flatnonzero(frequent).max())
            near = count_levels(pixels, candidates, max_tint, (green - 2, green + 2))
            return np.array([median_level(levels) for levels in near])
    return np.full(3, DEFAULT_GLASS)


def _is_pale_and_flat(pixels: np.ndarray) -> np.ndarray:
    low = lowest(pixels)
    return (low >= MIN_GLASS) & (low < WHITE) & (measure_roughness(pixels[..., 1]) < MAX_ROUGHNESS)


def count_levels(
    pixels: np.ndarray, candidates: np.ndarray, max_tint: int, greens: tuple[int, int] = (0, 255)
) -> np.ndarray:
    """(3, 256) how often each level occurs in each channel of (h, w, 3) uint8 pixels.

    Those count that are among the ``candidates`` (h, w) bool, whose channels differ by no more than ``max_tint``, and
    whose green lies between the two ``greens``.
    """
    counts = np.zeros((3, 256), int)
    for strip in strips(len(pixels)):
        colours = pixels[strip][candidates[strip]]
        green = colours[:, 1].astype(int)
        chosen = (spread(colours) <= max_tint) & (green >= greens[0]) & (green <= greens[1])
        counts += [np.bincount(channel, minlength=256) for channel in colours[chosen].T]
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


def lowest(pixels: np.ndarray) -> np.ndarray:
    """(...) the least of the channels of (..., 3)."""
    return np.minimum(np.minimum(pixels[..., 0], pixels[..., 1]), pixels[..., 2])


def highest(pixels: np.ndarray) -> np.ndarray:
    """(...) the largest of the channels of (..., 3)."""
    return np.maximum(np.maximum(pixels[..., 0], pixels[..., 1]), pixels[..., 2])


def spread(pixels: np.ndarray) -> np.ndarray:
    """(...) how far apart the channels of (..., 3) are."""
    return highest(pixels) - lowest(pixels)
