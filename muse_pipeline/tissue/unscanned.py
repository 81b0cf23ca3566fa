"""Areas of a slide that were not scanned and that the file fills with black: they are read as white."""

from __future__ import annotations

import cv2
import numpy as np

from muse_pipeline.core.types import Slide, SlideInfo
from muse_pipeline.slides.base import WHITE
from muse_pipeline.tissue.background import highest
from muse_pipeline.tissue.components import Components

BLACK = 10  # highest level of an unscanned pixel at 8 um; felt pens have 15 to 40, because of light and camera noise
DARK = 50  # the same for pixels of the slide, since JPEG mixes them with those of the scan at its edge
BRIGHT = 100  # lowest median level at the edge of a scan; fluorescence and shadows fade into black
_SQUARE = np.ones((3, 3), np.uint8)


def find_unscanned(pixels: np.ndarray) -> np.ndarray | None:
    """(h, w) bool: black areas of (h, w, 3) uint8 at about 8 um per pixel that touch the border; None without any."""
    black = highest(pixels) <= BLACK
    if not black.any():
        return None
    components = Components(black)
    chosen = components.at_border()
    chosen[0] = False
    unscanned = components.choose(chosen)
    near = grow(unscanned)
    edge = grow(near) & ~near
    if not edge.any() or np.median(highest(pixels[edge])) < BRIGHT:
        return None
    return unscanned


def grow(mask: np.ndarray) -> np.ndarray:
    """A mask (h, w) bool, grown by one pixel."""
    return cv2.dilate(np.ascontiguousarray(mask).view(np.uint8), _SQUARE).view(bool)


class ScannedSlide:
    """A slide that is white where it was not scanned.

    Args:
        slide: the slide.
        info: header of the slide.
        unscanned: (h, w) bool over the whole of level 0, from ``find_unscanned``.
        mpp: (2,) um per pixel of ``unscanned`` in x and y.
    """

    def __init__(self, slide: Slide, info: SlideInfo, unscanned: np.ndarray, mpp: np.ndarray):
        self.path = slide.path
        self._slide, self._info, self._near = slide, info, grow(unscanned)  # the edge lies somewhere in the next pixel
        self._step = np.array(info.mpp) / mpp

    def read_region(self, xy_level0: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
        """Read pixels as ``Slide.read_region`` does."""
        pixels = self._slide.read_region(xy_level0, level, size)
        columns, rows = (
            ((start + (np.arange(n) + 0.5) * downsample) * step).astype(int).clip(0, last - 1)
            for start, n, downsample, step, last in zip(
                xy_level0, size, self._info.level_downsamples[level], self._step, self._near.shape[::-1], strict=True
            )
        )
        near = self._near[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        if not near.any():
            return pixels
        is_white = near[np.ix_(rows - rows[0], columns - columns[0])] & (highest(pixels) <= DARK)
        return np.where(is_white[..., None], np.uint8(WHITE), pixels)

    def close(self) -> None:
        """Release the file."""
        self._slide.close()
