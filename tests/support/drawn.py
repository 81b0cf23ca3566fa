"""Synthetic slides made from arrays or functions, with any mpp and any pyramid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from muse_pipeline.core.errors import SlideError
from muse_pipeline.core.types import Bounds, SlideInfo


class ArraySlide:
    """A slide whose levels are arrays; ``corrupt`` rectangles (x, y, w, h) of level 0 cannot be
    read at any level.
    """

    def __init__(
        self, levels: Sequence[np.ndarray], corrupt: Sequence[tuple[int, int, int, int]] = ()
    ):
        self.path = Path("drawn.tif")
        self.levels, self.corrupt = list(levels), list(corrupt)
        self.n_pixels_read = 0
        height, width = levels[0].shape[:2]
        sides = [level.shape[:2] for level in self.levels]
        self.downsamples = [(width / columns, height / rows) for rows, columns in sides]

    def read_region(self, xy_level0, level, size):
        downsample = self.downsamples[level]
        end = np.add(xy_level0, np.multiply(size, downsample))
        for x, y, width, height in self.corrupt:
            if (np.less(xy_level0, (x + width, y + height)) & (end > (x, y))).all():
                raise SlideError(f"{self.path}: pixels at {xy_level0} cannot be decoded")
        self.n_pixels_read += size[0] * size[1]
        left, top = (round(xy_level0[i] / downsample[i]) for i in range(2))
        result = np.full((size[1], size[0], 3), 255, np.uint8)
        image = self.levels[level]
        rows = slice(max(top, 0), max(min(top + size[1], image.shape[0]), 0))
        columns = slice(max(left, 0), max(min(left + size[0], image.shape[1]), 0))
        part = image[rows, columns]
        result[rows.start - top :, columns.start - left :][: part.shape[0], : part.shape[1]] = part
        return result

    def close(self):
        pass

    def info(self, mpp=(0.25, 0.25), slide_id="drawn", bounds: Bounds | None = None) -> SlideInfo:
        sizes = tuple((level.shape[1], level.shape[0]) for level in self.levels)
        return SlideInfo(
            slide_id=slide_id,
            path=str(self.path),
            reader="array",
            vendor="drawn",
            size_px=sizes[0],
            mpp=tuple(mpp),
            mpp_source="drawn so",
            level_sizes_px=sizes,
            level_downsamples=tuple(self.downsamples),
            fingerprint="0" * 16,
            bounds=bounds,
        )


def draw(
    colour_at: Callable[[np.ndarray, np.ndarray], np.ndarray],
    size_px: tuple[int, int],
    mpp: tuple[float, float],
    level_sizes_px: Sequence[tuple[int, int]] = (),
    oversampling: int = 4,
) -> ArraySlide:
    """Draw each level from ``colour_at(x_um, y_um) -> (..., 3)``, averaged over the area of each of
    its pixels.
    """
    levels = []
    for width, height in [size_px, *level_sizes_px]:
        x = (np.arange(width * oversampling) + 0.5) / (width * oversampling) * size_px[0] * mpp[0]
        y = (np.arange(height * oversampling) + 0.5) / (height * oversampling) * size_px[1] * mpp[1]
        fine = np.broadcast_to(colour_at(*np.meshgrid(x, y, copy=False)), (len(y), len(x), 3))
        mean = cv2.resize(
            np.ascontiguousarray(fine, np.float32), (width, height), interpolation=cv2.INTER_AREA
        )
        levels.append(np.floor(mean + 0.5).astype(np.uint8))
    return ArraySlide(levels)


def discs(xy_um: np.ndarray, radius_um: float, colour=(90, 40, 120), background=(255, 255, 255)):
    """Return a ``colour_at`` with discs at the positions ``xy_um`` (N, 2)."""

    def colour_at(x, y):
        inside = np.zeros(x.shape, bool)
        for cx, cy in xy_um:
            near = _near(y[:, 0], cy, radius_um), _near(x[0], cx, radius_um)
            inside[near] |= np.hypot(x[near] - cx, y[near] - cy) < radius_um
        return np.where(inside[..., None], np.float32(colour), np.float32(background))

    return colour_at


def _near(positions: np.ndarray, centre: float, radius: float) -> slice:
    return slice(*np.searchsorted(positions, (centre - radius, centre + radius)))


def paint(density: np.ndarray) -> np.ndarray:
    """Pixels (..., 3) uint8 with the optical densities (..., 3), rounded as a camera does."""
    return np.clip(np.round(256 * np.exp(-density)) - 1, 0, 255).astype(np.uint8)
