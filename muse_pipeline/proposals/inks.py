"""Colours that are neither stain: felt pens, and brown (DAB, pigment, bile). What lies there counts for nothing."""

from __future__ import annotations

import cv2
import numpy as np

from muse_pipeline.tissue.macenko import MAX_RED_TO_GREEN
from muse_pipeline.tissue.pen import is_black, is_red
from muse_pipeline.tissue.stains import DENSITY, is_brown

COARSE = 4  # pixels averaged along each side: colours of single pixels are fringes of the scanner
PEN_PX = 7  # of the averaged pixels, about 14 um: narrower is a nucleus of odd colour, no stroke
FAINT_DENSITY = 0.06  # red density of a pen's faintest edge that could pass for a nucleus


def clear_foreign_colours(haematoxylin: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """``haematoxylin`` (h, w) float32, zero where (h, w, 3) uint8 ``pixels`` at about 0.5 um are ink or brown."""
    height, width = haematoxylin.shape
    foreign = find_foreign_colours(pixels)
    if not foreign.any():
        return haematoxylin
    spread = cv2.resize(foreign.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    return np.where(spread > 0, np.float32(0), haematoxylin)


def find_foreign_colours(pixels: np.ndarray) -> np.ndarray:
    """Where ``pixels``, averaged ``COARSE``-fold, are ink or brown, (h', w') bool."""
    density = DENSITY[coarsen(pixels)]
    return find_ink(density) | is_brown(density)


def find_ink(density: np.ndarray) -> np.ndarray:
    """Where coarse ``density`` (h', w', 3) is felt pen, faint edges and what shines through included: (h', w') bool."""
    red, green, _ = np.moveaxis(density, -1, 0)
    bluish = (red > FAINT_DENSITY) & (red > MAX_RED_TO_GREEN * green)
    stroke = np.ones((PEN_PX, PEN_PX), np.uint8)
    strong = cv2.morphologyEx((is_red(density) | is_black(density)).astype(np.uint8), cv2.MORPH_OPEN, stroke)
    return bluish | (cv2.dilate(strong, stroke) > 0)


def coarsen(pixels: np.ndarray) -> np.ndarray:
    """``pixels`` averaged ``COARSE``-fold along each side."""
    height, width = (max(1, side // COARSE) for side in pixels.shape[:2])
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
