"""The colour of empty glass, and how much each pixel absorbs beyond it."""

from __future__ import annotations

import cv2
import numpy as np

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
    flat = pale & (measure_roughness(pixels[..., 1]) < MAX_ROUGHNESS)
    for max_tint, min_share in KINDS:
        candidates = pixels[flat & (high - low <= max_tint)]
        if len(candidates) >= max(min_share * (low < 255).sum(), 1):
            counts = np.bincount(candidates[:, 1], minlength=256)
            frequent = np.convolve(counts, np.ones(3), "same") >= FREQUENT * len(candidates)
            green = np.flatnonzero(frequent).max()
            return np.median(candidates[np.abs(candidates[:, 1].astype(int) - green) <= 2], axis=0)
    return np.full(3, DEFAULT_GLASS)


def measure_roughness(grey: np.ndarray) -> np.ndarray:
    """(h, w) float32, standard deviation among the 3 x 3 neighbours of each pixel of (h, w) uint8."""
    values = grey.astype(np.float32)
    mean = cv2.blur(values, (3, 3))
    return np.sqrt(np.maximum(cv2.blur(values * values, (3, 3)) - mean * mean, 0))


def absorbed(pixels: np.ndarray, glass: np.ndarray) -> np.ndarray:
    """Optical density (natural log) of (h, w, 3) uint8 beyond ``glass``, float32, not below 0."""
    steps = np.arange(1, 257, dtype=np.float32)
    density = [np.maximum(np.log((colour + 1) / steps), 0)[pixels[..., i]] for i, colour in enumerate(glass)]
    return np.stack(density, -1).astype(np.float32)
