"""Recognise immunohistochemistry by brown (DAB) in nuclei, cytoplasm or membranes.

The colour of a nucleus alone does not separate the stains: with blood, much eosin or a yellow tint, nuclei of H&E
absorb as much blue as nuclei with DAB over haematoxylin. What differs is what a nucleus adds to the tissue around it:
haematoxylin absorbs blue least, and more red than the pink around it; DAB absorbs blue most, and less red than the pale
blue around it. Pigments in H&E, such as melanin, also absorb more red than the tissue around them.
"""

from __future__ import annotations

import cv2
import numpy as np

from muse_pipeline.tissue.stain import DENSITY

SPOT_UM = 1.25  # sigma of the Gaussian that averages a spot
AROUND_UM = 17.0  # side of the square that a spot is compared with
APART_UM = 2.5  # half the side of the square in which a spot absorbs red most; eosin hardly absorbs red
MIN_ADDED = 0.08  # minimum density of red that a spot adds to the tissue around it
MIN_BLUE = 0.2  # minimum density of blue that a brown spot adds; dust and compression of pale pictures add less
MIN_RED = 0.3  # minimum ratio of red to green in what a brown spot adds, and in brown areas; blood has less
# docs/guide/confidence.md states how often H&E and Ki-67 are recognised.
MIN_SPOTS, MIN_SHARE = 3, 0.025  # minimum number of brown spots, and their share of all spots; at most 0.015 in H&E
MIN_AREA = 0.01  # minimum brown share of the stained area, for stains of cytoplasm and membranes


class BrownSample:
    """Sums up fields of tissue to decide whether they show immunohistochemistry."""

    def __init__(self) -> None:
        self._n_spots = self._n_brown_spots = 0
        self._n_blocks = self._n_brown_blocks = 0
        self._brown, self._other = np.zeros(3), np.zeros(3)  # summed densities

    def add_spots(self, pixels: np.ndarray, usable: np.ndarray, mpp: float) -> None:
        """Count the spots of a field (h, w, 3) uint8 whose centres are ``usable`` (h, w) bool."""
        n, n_brown = count_spots(pixels, usable, mpp)
        self._n_spots += n
        self._n_brown_spots += n_brown

    def add_blocks(self, density: np.ndarray, is_brown: np.ndarray) -> None:
        """Add blocks of stained tissue by their densities (N, 3) and whether they are brown (N,)."""
        self._n_blocks += len(density)
        self._n_brown_blocks += np.count_nonzero(is_brown)
        self._brown += density[is_brown].sum(0)
        self._other += density[~is_brown].sum(0)

    @property
    def area_share(self) -> float | None:
        """Brown share of the stained area; None if nothing is stained."""
        return self._n_brown_blocks / self._n_blocks if self._n_blocks else None

    @property
    def is_ihc(self) -> bool:
        """True if the fields show immunohistochemistry."""
        has_nuclei = self._n_brown_spots >= max(MIN_SPOTS, MIN_SHARE * self._n_spots)
        is_dab = _is_less_red(self._brown, self._other) and self._brown[0] > MIN_RED * self._brown[1]
        return bool(has_nuclei or (is_dab and (self.area_share or 0) >= MIN_AREA))


def count_spots(pixels: np.ndarray, usable: np.ndarray, mpp: float) -> tuple[int, int]:
    """The number of dark spots of the size of nuclei in a field, and the number of brown ones among them.

    Args:
        pixels: (h, w, 3) uint8.
        usable: (h, w) bool, the pixels in which spots are counted.
        mpp: um per pixel.
    """
    density = cv2.LUT(np.ascontiguousarray(pixels), DENSITY)
    side, reach = (2 * max(round(um / mpp), 1) + 1 for um in (AROUND_UM / 2, APART_UM))
    spot, around = cv2.GaussianBlur(density, (0, 0), SPOT_UM / mpp), cv2.blur(density, (side, side))
    red = np.ascontiguousarray(spot[..., 0])
    is_spot = (red == cv2.dilate(red, np.ones((reach, reach), np.uint8))) & (red - around[..., 0] > MIN_ADDED) & usable
    spot, around = spot[is_spot], around[is_spot]
    red, green, blue = (spot - around).T
    is_brown = (blue > MIN_BLUE) & (blue > green) & (spot[:, 2] > spot[:, 0])
    is_brown &= (red > MIN_RED * green) & _is_less_red(spot - around, around)
    return len(spot), int(np.count_nonzero(is_brown))


def _is_less_red(density: np.ndarray, than: np.ndarray) -> np.ndarray:
    """(...) bool: densities (..., 3) whose ratio of red to green is below that of other densities (..., 3)."""
    return density[..., 0] * than[..., 1] < than[..., 0] * density[..., 1]
