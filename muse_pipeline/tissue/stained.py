"""Where there is stain: colour, however faint, as opposed to grey."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from muse_pipeline.tissue.glass import absorbed
from muse_pipeline.tissue.strips import map_strips

FAINT = 0.03  # difference between the channels' densities; clean glass stays below 0.02 at 8 um a pixel
CERTAIN = 0.09  # a region of faint colour counts if some of it is this strong
BLACK = 70  # of 255: darker than any stain; outside the scan, or fluorescence


def find_stained(pixels: np.ndarray, glass: np.ndarray) -> np.ndarray:
    """Where (h, w, 3) uint8 ``pixels`` are stained, beyond the colour (3,) of ``glass``: (h, w) bool.

    Dust, shadows, bubbles and the edges of cover slips are grey: they absorb all colours alike. Both stains, brown and
    blue chromogens included, do not.
    """
    faint, strong = np.moveaxis(map_strips(lambda strip: _faint_and_strong(strip, glass), pixels), -1, 0)
    regions, n = ndimage.label(faint, structure=np.ones((3, 3)))
    certain = np.zeros(n + 1, bool)
    certain[regions[strong]] = True
    return faint & certain[regions]


def _faint_and_strong(pixels: np.ndarray, glass: np.ndarray) -> np.ndarray:
    """(h, w, 2) bool: whether there may be stain, and whether there is colour that nothing else has."""
    density = absorbed(pixels, glass)
    colour = np.ptp(density, axis=-1)
    greenish = density[..., 1] <= density[..., [0, 2]].min(-1)
    bright = pixels.max(-1) >= BLACK
    return np.stack([(colour > FAINT) & ~greenish & bright, colour > CERTAIN], -1)


def is_fluorescence(pixels: np.ndarray) -> bool:
    """Whether more than half of the slide is black and the rest is dark too."""
    brightest = pixels.max(-1)
    lit = brightest >= BLACK // 2
    return bool(lit.mean() < 0.5 and (not lit.any() or np.median(pixels[lit].mean(-1)) < 100))
