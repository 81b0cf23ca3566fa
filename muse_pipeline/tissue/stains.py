"""Colours as optical densities: the table of them, the textbook's stains, and what is brown and so neither."""

from __future__ import annotations

import numpy as np

BROWN_DENSITY = 0.25  # of blue, from which brown is no haze
MAX_BLUE_TO_GREEN = 1.2  # more is bile, haemosiderin or a fringe of colour; eosin lies at 0.5 to 0.85

# Ruifrok & Johnston, "Quantification of histochemical staining by color deconvolution", Anal Quant Cytol Histol 2001:
# haematoxylin and eosin, optical density of r, g, b.
TEXTBOOK = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105]])
TEXTBOOK.setflags(write=False)
ROUNDED_TEXTBOOK = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11))  # what trained models depend on

_DENSITY = -np.log((np.arange(256) + 1) / 256)
DENSITY = -np.log((np.arange(256, dtype=np.float32) + 1) / 256)  # a float32 logarithm differs in the last digit
DENSITY.setflags(write=False)


def optical_density(pixels: np.ndarray) -> np.ndarray:
    """-ln((pixel + 1) / 256) of uint8 pixels of any shape, float64; ``DENSITY[pixels]`` is as much in float32."""
    return _DENSITY[pixels]


def is_brown(density: np.ndarray) -> np.ndarray:
    """Which optical densities (..., 3) absorb blue most, as neither haematoxylin nor eosin does: (...) bool."""
    red, green, blue = np.moveaxis(density, -1, 0)
    return (blue > BROWN_DENSITY) & (blue > MAX_BLUE_TO_GREEN * green) & (blue > red)
