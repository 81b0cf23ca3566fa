"""The whole slide as one small picture, read in blocks so that memory stays bounded."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from muse_pipeline.errors import SlideError
from muse_pipeline.types import Slide, SlideInfo

OVERVIEW_UM = 8.0
BLOCK_PX = 4096  # 16 MP: 64 MB as the readers hold it, and wide enough for few JPEG tiles to be decoded twice
WHITE = 255


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
    level_mpp = np.multiply(info.mpp, info.level_downsamples[level])
    width, height = (-(-size // factor) for size, factor in zip(info.level_sizes_px[level], factors, strict=True))
    pixels = np.full((height, width, 3), WHITE, np.uint8)
    steps = [max(BLOCK_PX // factor, 1) for factor in factors]
    corners = [(x, y) for y in range(0, height, steps[1]) for x in range(0, width, steps[0])]
    failed: list[SlideError] = []
    for x, y in corners:
        block = pixels[y : y + steps[1], x : x + steps[0]]
        try:
            block[:] = _read_block(slide, info, level, factors, (x, y), (block.shape[1], block.shape[0]))
        except SlideError as error:
            failed.append(error)
    if failed and len(failed) == len(corners):
        raise failed[0]
    counted = f"{len(failed)} of {len(corners)} blocks of level {level} cannot be decoded"
    warnings = tuple(f"{counted}: {error}" for error in failed[:1])
    return Overview(pixels, level_mpp * factors, warnings)


def choose_overview_level(info: SlideInfo, target_um: float) -> tuple[int, tuple[int, int]]:
    """The coarsest level that is as fine as ``target_um``, and how many of its pixels (x, y) make one that wide."""
    fine = [
        level for level, d in enumerate(info.level_downsamples) if max(np.multiply(info.mpp, d)) <= target_um * 1.25
    ]
    level = max(fine, key=lambda level: info.level_downsamples[level][0], default=0)
    level_mpp = np.multiply(info.mpp, info.level_downsamples[level])
    x, y = np.maximum(np.round(target_um / level_mpp), 1).astype(int)
    return level, (int(x), int(y))


def _read_block(slide: Slide, info: SlideInfo, level: int, factors, xy, size) -> np.ndarray:
    """The overview's pixels ``xy`` to ``xy + size``; the last ones average what there is of the level."""
    first = [at * factor for at, factor in zip(xy, factors, strict=True)]
    whole = [n * factor for n, factor in zip(size, factors, strict=True)]
    there = [min(n, end - at) for n, end, at in zip(whole, info.level_sizes_px[level], first, strict=True)]
    corner = tuple(round(at * d) for at, d in zip(first, info.level_downsamples[level], strict=True))
    pixels = slide.read_region(corner, level, tuple(there))
    pixels = cv2.copyMakeBorder(pixels, 0, whole[1] - there[1], 0, whole[0] - there[0], cv2.BORDER_REPLICATE)
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
