"""The whole slide as one small picture, read in blocks so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from muse_pipeline.core.errors import SlideError
from muse_pipeline.core.types import Slide, SlideInfo
from muse_pipeline.slides.base import WHITE

OVERVIEW_UM = 8.0
# side of a block: it takes 16 MB in the readers, and few JPEG tiles are decoded for two blocks
BLOCK_PX = 2048
LEAST_PX = 256  # minimum side of the parts into which blocks are divided


@dataclass(frozen=True, eq=False)
class Overview:
    """A whole slide as one picture, by default at about 8 um per pixel."""

    pixels: np.ndarray  # (h, w, 3) uint8 over the whole of level 0
    mpp: np.ndarray  # (2,) float64, exact um per pixel in x and y
    unread: np.ndarray | None = (
        None  # (h, w) bool: area that cannot be decoded at any level, white in ``pixels``
    )
    warnings: tuple[str, ...] = ()  # warnings about the unreadable area


def read_overview(slide: Slide, info: SlideInfo, target_um: float = OVERVIEW_UM) -> Overview:
    """Read the coarsest level that is fine enough for ``target_um``, and average whole blocks of
    its pixels.

    Areas that cannot be decoded there are read from finer levels, which are stored separately and
    are mostly intact.
    """
    level, factors = choose_overview_level(info, target_um)
    width, height = (
        -(-size // factor) for size, factor in zip(info.level_sizes_px[level], factors, strict=True)
    )
    pixels, unread = np.full((height, width, 3), WHITE, np.uint8), np.zeros((height, width), bool)
    n_damaged, failure = 0, None
    sides = {
        at: np.multiply(factors, info.level_downsamples[level]) / d
        for at, d in enumerate(info.level_downsamples)
    }
    waiting = _blocks(level, range(width), range(height), sides[level])
    while (
        waiting
    ):  # a block that fails is read in quarters, and the smallest parts from the next finer level
        at, columns, rows = waiting.pop()
        here = slice(rows.start, rows.stop), slice(columns.start, columns.stop)
        try:
            pixels[here] = _read_block(slide, info, at, sides[at], (columns, rows))
        except SlideError as error:
            halves = _halve(columns, LEAST_PX // factors[0]), _halve(rows, LEAST_PX // factors[1])
            if halves != ([columns], [rows]):
                waiting += [(at, columns, rows) for rows in halves[1] for columns in halves[0]][
                    ::-1
                ]
                continue
            if at == level:
                n_damaged, failure = n_damaged + len(columns) * len(rows), failure or error
            downsamples = [x for x, _ in info.level_downsamples]
            finer = [other for other, x in enumerate(downsamples) if x < downsamples[at]]
            if finer:
                coarsest = max(finer, key=downsamples.__getitem__)
                waiting += _blocks(coarsest, columns, rows, sides[coarsest])
            else:
                unread[here] = True
    if unread.all():
        raise failure
    warnings = (
        [f"{n_damaged / (width * height):.1%} of level {level} cannot be decoded: {failure}"]
        if failure
        else []
    )
    if has_lost := bool(unread.any()):
        warnings.append(
            f"{unread.mean():.1%} of the slide cannot be decoded at any level and counts as tissue"
        )
    level_mpp = np.multiply(info.mpp, info.level_downsamples[level])
    return Overview(pixels, level_mpp * factors, unread if has_lost else None, tuple(warnings))


def _blocks(
    level: int, columns: range, rows: range, sides: np.ndarray
) -> list[tuple[int, range, range]]:
    """Divide ``columns`` and ``rows`` into blocks with sides of up to ``BLOCK_PX`` pixels of
    ``level``, in reverse.
    """
    steps = [max(int(BLOCK_PX // side), 1) for side in sides]
    return [
        (level, across, down) for down in _cut(rows, steps[1]) for across in _cut(columns, steps[0])
    ][::-1]


def _cut(pixels: range, step: int) -> list[range]:
    return [pixels[start : start + step] for start in range(0, len(pixels), step)]


def _halve(pixels: range, least: int) -> list[range]:
    """Divide a range into halves, or return it alone if they would be shorter than ``least``."""
    middle = (pixels.start + pixels.stop) // 2
    if len(pixels) < 2 * max(least, 1):
        return [pixels]
    return [range(pixels.start, middle), range(middle, pixels.stop)]


def coarsest_level(info: SlideInfo, most_um: float) -> int:
    """The coarsest level whose pixels measure at most ``most_um`` in both directions, or else level
    0.
    """
    fine = [
        level
        for level, downsample in enumerate(info.level_downsamples)
        if max(np.multiply(info.mpp, downsample)) <= most_um
    ]
    return max(fine, key=lambda level: info.level_downsamples[level][0], default=0)


def choose_overview_level(info: SlideInfo, target_um: float) -> tuple[int, tuple[int, int]]:
    """The coarsest level fine enough for ``target_um``, and how many of its pixels (x, y) make one
    of that size.
    """
    level = coarsest_level(info, target_um * 1.25)
    level_mpp = np.multiply(info.mpp, info.level_downsamples[level])
    x, y = np.maximum(np.round(target_um / level_mpp), 1).astype(int)
    return level, (int(x), int(y))


def _read_block(
    slide: Slide, info: SlideInfo, level: int, sides: np.ndarray, block: tuple[range, range]
) -> np.ndarray:
    """The overview's pixels in ``block`` (columns, rows), from a level; beyond the level's end, its
    edge is repeated.

    A pixel of the overview measures ``sides`` (x, y) pixels of the level.
    """
    starts, stops = zip(*((pixels.start, pixels.stop) for pixels in block), strict=True)
    first, last = (np.rint(np.multiply(ends, sides)).astype(int) for ends in (starts, stops))
    end = np.minimum(last, info.level_sizes_px[level])
    corner = np.rint(first * info.level_downsamples[level]).astype(int)
    pixels = slide.read_region(tuple(corner.tolist()), level, tuple((end - first).tolist()))
    beyond_x, beyond_y = (last - end).tolist()
    pixels = cv2.copyMakeBorder(pixels, 0, beyond_y, 0, beyond_x, cv2.BORDER_REPLICATE)
    return cv2.resize(pixels, (len(block[0]), len(block[1])), interpolation=cv2.INTER_AREA)


ROWS = 64


def strips(height: int, rows: int = ROWS) -> Iterator[slice]:
    """Slices of ``rows`` rows that cover ``height``."""
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def map_strips(
    function: Callable[[np.ndarray], np.ndarray], image: np.ndarray, halo: int = 0
) -> np.ndarray:
    """Apply ``function`` to an (h, w, ...) ``image`` in strips; the result may depend on ``halo``
    rows on each side.
    """
    result = None
    for strip in strips(len(image)):
        first = max(strip.start - halo, 0)
        part = function(image[first : strip.stop + halo])
        if result is None:
            result = np.empty((len(image), *part.shape[1:]), part.dtype)
        result[strip] = part[strip.start - first :][: strip.stop - strip.start]
    return result
