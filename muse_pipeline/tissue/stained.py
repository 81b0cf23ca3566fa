"""Where there is stain: colour, however faint, as opposed to grey."""

from __future__ import annotations

import numpy as np

from muse_pipeline.tissue.channels import highest, spread
from muse_pipeline.tissue.components import Components
from muse_pipeline.tissue.glass import absorbed, median_level
from muse_pipeline.tissue.strips import strips

FAINT = 0.03  # difference between the channels' densities; clean glass stays below 0.02 at 8 um a pixel
CERTAIN = 0.09  # a region of faint colour counts if some of it is this strong
BLACK = 70  # of 255: darker than any stain; outside the scan, or fluorescence


def find_stained(pixels: np.ndarray, glass: np.ndarray) -> np.ndarray:
    """Where (h, w, 3) uint8 ``pixels`` are stained, beyond the colour (3,) of ``glass``: (h, w) bool.

    Dust, shadows, bubbles and the edges of cover slips are grey: they absorb all colours alike. Both stains, brown and
    blue chromogens included, do not.
    """
    faint, strong = (np.empty(pixels.shape[:2], bool) for _ in range(2))
    for strip in strips(len(pixels)):
        faint[strip], strong[strip] = _faint_and_strong(pixels[strip], glass)
    components = Components(faint)
    certain = np.zeros(components.n, bool)
    for strip, number in components:
        certain[number[strong[strip]]] = True
    certain[0] = False
    return components.choose(certain)


def _faint_and_strong(pixels: np.ndarray, glass: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two (h, w) bool: whether there may be stain, and whether there is colour that nothing else has."""
    density = absorbed(pixels, glass)
    colour = spread(density)
    greenish = density[..., 1] <= np.minimum(density[..., 0], density[..., 2])
    bright = highest(pixels) >= BLACK
    return (colour > FAINT) & ~greenish & bright, colour > CERTAIN


def is_fluorescence(pixels: np.ndarray) -> bool:
    """Whether more than half of the slide is black and the rest is dark too."""
    n_by_sum = np.zeros(3 * 255 + 1, int)  # of the channels, over the pixels that are not black
    for strip in strips(len(pixels)):
        lit = pixels[strip][highest(pixels[strip]) >= BLACK // 2]
        n_by_sum += np.bincount(lit.sum(-1, dtype=int), minlength=len(n_by_sum))
    n_lit, n = n_by_sum.sum(), pixels.shape[0] * pixels.shape[1]
    return bool(n_lit < n / 2 and (not n_lit or median_level(n_by_sum) < 3 * 100))
