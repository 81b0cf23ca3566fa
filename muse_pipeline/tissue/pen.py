"""Marks of felt pens: a colour that no stain has, over more than a few cells."""

from __future__ import annotations

import cv2
import numpy as np

from muse_pipeline.tissue.channels import highest, lowest, spread
from muse_pipeline.tissue.mask import dilate

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
