"""The whole slide as one small picture, read in blocks so that memory stays bounded."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from muse_pipeline.errors import SlideError
from muse_pipeline.slides.base import WHITE
from muse_pipeline.types import Slide, SlideInfo

OVERVIEW_UM = 8.0
BLOCK_PX = 2048  # 4 MP: 16 MB as the readers hold it, and wide enough for few JPEG tiles to be decoded twice
LEAST_PX = 256  # what cannot be decoded is no smaller


@dataclass(frozen=True, eq=False)
class Overview:
    """A slide at about 8 um a pixel.

    Attributes:
        pixels: (h, w, 3) uint8 over the whole of level 0.
        mpp: (2,) float64, exact um per pixel in x and y.
        warnings: what could not be read, in words.
    """

    pixels: np.ndarray
    mpp: np.ndarray
    warnings: tuple[str, ...] = ()


def read_overview(slide: Slide, info: SlideInfo, target_um: float = OVERVIEW_UM) -> Overview:
    """Read the level nearest above ``target_um`` and average whole blocks of its pixels.

    Raises:
        SlideError: nothing of the slide can be decoded.
    """
    level, factors = choose_overview_level(info, target_um)
    width, height = (-(-size // factor) for size, factor in zip(info.level_sizes_px[level], factors, strict=True))
    pixels = np.full((height, width, 3), WHITE, np.uint8)
    n_corrupt, failure = 0, None
    steps = [max(BLOCK_PX // factor, 1) for factor in factors]
    waiting = [(columns, rows) for rows in _cut(height, steps[1]) for columns in _cut(width, steps[0])][::-1]
    while waiting:  # blocks; of one that fails, its quarters; what cannot be divided further is corrupt
        columns, rows = waiting.pop()
        try:
            block = _read_block(slide, info, level, factors, (columns, rows))
            pixels[rows.start : rows.stop, columns.start : columns.stop] = block
        except SlideError as error:
            halves = _halve(columns, LEAST_PX // factors[0]), _halve(rows, LEAST_PX // factors[1])
            if halves == ([columns], [rows]):
                n_corrupt += len(columns) * len(rows)
                failure = failure or error
            else:
                waiting += [(columns, rows) for rows in halves[1] for columns in halves[0]][::-1]
    if n_corrupt == width * height:
        raise failure
    warnings = (f"{n_corrupt / (width * height):.1%} of level {level} cannot be decoded: {failure}",) if failure else ()
    level_mpp = np.multiply(info.mpp, info.level_downsamples[level])
    return Overview(pixels, level_mpp * factors, warnings)


def _cut(n: int, step: int) -> list[range]:
    return [range(start, min(start + step, n)) for start in range(0, n, step)]


def _halve(pixels: range, least: int) -> list[range]:
    """Two halves, unless they would be shorter than ``least``."""
    middle = (pixels.start + pixels.stop) // 2
    if len(pixels) < 2 * max(least, 1):
        return [pixels]
    return [range(pixels.start, middle), range(middle, pixels.stop)]


def choose_overview_level(info: SlideInfo, target_um: float) -> tuple[int, tuple[int, int]]:
    """The coarsest level that is as fine as ``target_um``, and how many of its pixels (x, y) make one that wide."""
    fine = [
        level for level, d in enumerate(info.level_downsamples) if max(np.multiply(info.mpp, d)) <= target_um * 1.25
    ]
    level = max(fine, key=lambda level: info.level_downsamples[level][0], default=0)
    level_mpp = np.multiply(info.mpp, info.level_downsamples[level])
    x, y = np.maximum(np.round(target_um / level_mpp), 1).astype(int)
    return level, (int(x), int(y))


def _read_block(slide: Slide, info: SlideInfo, level: int, factors, block: tuple[range, range]) -> np.ndarray:
    """The overview's pixels in ``block`` = (columns, rows); the last ones average what there is of the level."""
    first = [pixels.start * factor for pixels, factor in zip(block, factors, strict=True)]
    whole = [len(pixels) * factor for pixels, factor in zip(block, factors, strict=True)]
    there = [min(n, end - at) for n, end, at in zip(whole, info.level_sizes_px[level], first, strict=True)]
    corner = tuple(round(at * d) for at, d in zip(first, info.level_downsamples[level], strict=True))
    pixels = slide.read_region(corner, level, tuple(there))
    pixels = cv2.copyMakeBorder(pixels, 0, whole[1] - there[1], 0, whole[0] - there[0], cv2.BORDER_REPLICATE)
    return cv2.resize(pixels, (len(block[0]), len(block[1])), interpolation=cv2.INTER_AREA)
