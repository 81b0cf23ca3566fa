"""Pixels of a slide at any positions, and the density of nuclei that two stains have in common."""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np

from muse_pipeline.registration.transform import Transform
from muse_pipeline.slides.base import WHITE
from muse_pipeline.tissue.stain import DENSITY


class PixelReader(Protocol):
    """A slide at one resolution, such as ``AreaReader``.

    Attributes:
        size_px: (width, height).
        mpp: um per pixel, a number or (x, y).
    """

    size_px: tuple[int, int]
    mpp: float | np.ndarray

    def read(self, xy: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        """(h, w, 3) uint8 of a rectangle that lies within ``size_px``."""


class Picture:
    """A slide at one resolution, held in memory."""

    def __init__(self, pixels: np.ndarray, mpp: np.ndarray):
        self._pixels, self.mpp = pixels, np.asarray(mpp)
        self.size_px = pixels.shape[1], pixels.shape[0]

    @property
    def size_um(self) -> np.ndarray:
        """(width, height) in um."""
        return self.size_px * self.mpp

    def read(self, xy: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        """(h, w, 3) uint8 of a rectangle, as in ``PixelReader``."""
        return self._pixels[xy[1] : xy[1] + size[1], xy[0] : xy[0] + size[0]]

    def shrunk(self, target_um: float) -> Picture:
        """The picture with pixels of about ``target_um``."""
        size = np.maximum(np.round(self.size_um / target_um), 1).astype(int)
        pixels = cv2.resize(self._pixels, size.tolist(), interpolation=cv2.INTER_AREA)
        return Picture(pixels, self.size_um / size)


def grid_um(corner_um: np.ndarray, step_um: float, size: tuple[int, int]) -> np.ndarray:
    """(h, w, 2) float64: centres in um of ``size`` = (width, height) pixels of side ``step_um`` from a corner."""
    x, y = (start + (np.arange(n) + 0.5) * step_um for start, n in zip(corner_um, size, strict=True))
    return np.stack(np.meshgrid(x, y), -1)


def sample(reader: PixelReader, um: np.ndarray, interpolation: int = cv2.INTER_LINEAR) -> np.ndarray:
    """The pixels (h, w, 3) uint8 at positions (h, w, 2) in um from the corner of level 0; white beyond the slide."""
    at = um / reader.mpp
    low = np.maximum(np.floor(at.min((0, 1))).astype(int) - 2, 0)
    high = np.minimum(np.ceil(at.max((0, 1))).astype(int) + 3, reader.size_px)
    if (high <= low).any():
        return np.full((*um.shape[:2], 3), WHITE, np.uint8)
    pixels = reader.read(tuple(low.tolist()), tuple((high - low).tolist()))
    column, row = np.moveaxis((at - 0.5 - low).astype(np.float32), -1, 0)
    border = {"borderMode": cv2.BORDER_CONSTANT, "borderValue": (WHITE,) * 3}
    return cv2.remap(pixels, column, row, interpolation, **border)


def nuclear_density(pixels: np.ndarray) -> np.ndarray:
    """Optical density of red, (h, w) float32: haematoxylin and the brown of DAB absorb it, eosin hardly."""
    return DENSITY[pixels[..., 0]]


class WarpedReader:
    """A partner as an image in the frame of its slide.

    Args:
        partner: partner at about the resolution of the image.
        transform: transform from slide to partner.
        size_px: (width, height) of the image.
        mpp: um per pixel of the image.
    """

    def __init__(self, partner: PixelReader, transform: Transform, size_px: tuple[int, int], mpp: float):
        self.partner, self.transform, self.size_px, self.mpp = partner, transform, size_px, mpp

    def read(self, xy: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        """(h, w, 3) uint8 of ``size`` = (width, height) pixels at ``xy``; white beyond the partner."""
        um = self.transform.to_partner(grid_um(np.multiply(xy, self.mpp), self.mpp, size))
        return sample(self.partner, um, cv2.INTER_CUBIC)
