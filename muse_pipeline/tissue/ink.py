"""Colours that are neither stain: felt pens, and brown (DAB, pigment, bile)."""

from __future__ import annotations

import cv2
import numpy as np

from muse_pipeline.tissue.background import highest, lowest, spread
from muse_pipeline.tissue.mask import dilate
from muse_pipeline.tissue.stain import DENSITY, MAX_RED_TO_GREEN, is_brown

MIN_STROKE_UM = 40.0  # narrower is no pen
SURROUNDINGS_UM = 80.0  # the stroke's faint edge


def find_pen(ink: np.ndarray, mpp: np.ndarray) -> np.ndarray:
    """Strokes among the pixels of the colour of ``ink`` (h, w) bool: (h, w) bool, faint edges included."""
    radius = np.maximum(np.round(MIN_STROKE_UM / 2 / np.asarray(mpp)), 1).astype(int)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, tuple(int(2 * r + 1) for r in radius))
    strokes = cv2.morphologyEx(ink.astype(np.uint8), cv2.MORPH_OPEN, disc) > 0
    return dilate(strokes, mpp, SURROUNDINGS_UM)


def is_ink(density: np.ndarray) -> np.ndarray:
    """Where (h, w, 3) ``density`` beyond glass (see ``glass.absorbed``) has the colour of an ink: (h, w) bool."""
    return is_green(density) | is_blue(density) | is_red(density) | is_black(density)


def is_green(density: np.ndarray) -> np.ndarray:
    """Green lets green through best; both stains absorb it most."""
    red, green, blue = np.moveaxis(density, -1, 0)
    return (red > 0.25) & (green < 0.8 * red) & (green < 1.1 * blue)


def is_blue(density: np.ndarray) -> np.ndarray:
    """Blue ink absorbs red far more than green; haematoxylin about as much."""
    red, green, blue = np.moveaxis(density, -1, 0)
    return (red > 0.25) & (red > 1.4 * green) & (blue < green)


def is_red(density: np.ndarray) -> np.ndarray:
    """Red ink absorbs green and blue alike and lets red through; eosin lets more blue through."""
    red, green, blue = np.moveaxis(density, -1, 0)
    return (green > 0.8) & (blue > 0.85 * green) & (red < 0.3 * green)


def is_black(density: np.ndarray) -> np.ndarray:
    """Black ink absorbs everything alike, and much of it."""
    return (lowest(density) > 0.9) & (spread(density) < 0.35 * highest(density))


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
