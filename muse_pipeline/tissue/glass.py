"""The colour of empty glass, and how much each pixel absorbs beyond it."""

from __future__ import annotations

import numpy as np

DEFAULT_GLASS = 243.0  # where a picture is tissue from wall to wall
MIN_GLASS = 195  # of 255, in every channel
# (tint between the channels, share of the picture within +-1 of one brightness): glass is nearly white, or it is tinted
# by the scanner and then one flat colour all over; pale stroma is tinted and varied
KINDS = ((10, 0.01), (35, 0.2))


def estimate_glass(pixels: np.ndarray) -> np.ndarray:
    """The colour of glass in (h, w, 3) uint8: (3,) float, the brightest frequent colour that glass can have."""
    flat = pixels.reshape(-1, 3)
    flat = flat[flat.min(1) < 255]  # pure white is padding
    low, high = flat.min(1), flat.max(1)
    for max_tint, min_share in KINDS:
        candidates = flat[(low >= MIN_GLASS) & (high - low <= max_tint)]
        counts = np.bincount(candidates[:, 1], minlength=256)
        frequent = np.convolve(counts, np.ones(3), "same") >= max(min_share * len(flat), 1)
        if frequent.any():
            green = np.flatnonzero(frequent).max()
            return np.median(candidates[np.abs(candidates[:, 1].astype(int) - green) <= 2], axis=0)
    return np.full(3, DEFAULT_GLASS)


def absorbed(pixels: np.ndarray, glass: np.ndarray) -> np.ndarray:
    """Optical density (natural log) of (h, w, 3) uint8 beyond ``glass``, float32, not below 0."""
    steps = np.arange(1, 257, dtype=np.float32)
    density = [np.maximum(np.log((colour + 1) / steps), 0)[pixels[..., i]] for i, colour in enumerate(glass)]
    return np.stack(density, -1).astype(np.float32)
