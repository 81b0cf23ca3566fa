"""Base of slide readers: registry, properties, and the choice of a reader for a slide.

Each reader is a module in this folder with a registered class that derives from ``SlideReader``.
``open_slide`` tries the readers in the order of their ``priority`` and uses the first one that
accepts the file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from math import floor
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy import ndarray

from muse_pipeline.core.errors import HangingReadError, SlideError
from muse_pipeline.core.registry import Registry
from muse_pipeline.core.types import Bounds
from muse_pipeline.slides.isolation import Call, call_in_time, current_call
from muse_pipeline.slides.mpp import MppCandidate
from muse_pipeline.slides.signature import require_file, slide_file, why_unreadable

WHITE = 255  # value of pixels outside a slide
Alpha = Literal["opacity", "multiplied in", "none"]
READERS: Registry[type[SlideReader]] = Registry(
    "slide reader", "muse_pipeline.slides", group="muse.readers"
)


class UnsuitedError(SlideError):
    """The reader cannot read this file; a different reader may."""


class OtherFormatError(UnsuitedError):
    """The reader does not support the file's format."""


class NearlyReadError(UnsuitedError):
    """The reader supports this kind of file but fails on this one; its error is reported to the
    user.
    """


@dataclass(frozen=True)
class SlideProperties:
    """Properties of a slide as its reader reports them."""

    vendor: str  # maker of the scanner or kind of file, as the reader names it
    level_sizes_px: tuple[tuple[int, int], ...]  # (width, height) of every level, level 0 first
    # (x, y) level-0 pixels per pixel of every level
    level_downsamples: tuple[tuple[float, float], ...]
    # sizes of a level-0 pixel in the file, the most trusted first
    mpp_candidates: tuple[MppCandidate, ...] = ()
    # rectangle that the scanner marks as non-empty, in absolute level-0 pixels
    bounds: Bounds | None = None
    # about what is read, such as the choice of one picture among several
    warnings: tuple[str, ...] = ()


class SlideReader(ABC):
    """An open slide, safe to read from several threads (see ``types.Slide``)."""

    name: ClassVar[str]
    priority: ClassVar[int]  # readers are tried in ascending order

    path: Path
    properties: SlideProperties
    _reads: list[Call]  # reads in progress; once one hangs, no more are started

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """Create a reader with no read in progress, whichever initialiser the subclass has."""
        reader = super().__new__(cls)
        reader._reads = []
        return reader

    def read_level(self, xy_px: tuple[int, int], level: int, size: tuple[int, int]) -> ndarray:
        """Read ``size`` = (width, height) pixels of ``level``, the top left one at ``xy_px`` = (x,
        y) in this level.

        Returns:
            (h, w, 3) uint8 RGB; pixels outside the image, and transparent ones, are white.

        Raises:
            SlideError: the pixels cannot be decoded.
        """
        canvas = white_canvas(size)
        if (meeting := overlap(xy_px, size, self.properties.level_sizes_px[level])) is not None:
            (rows, columns), inside = meeting
            extent = columns.stop - columns.start, rows.stop - rows.start
            canvas[inside] = self.read_inside((columns.start, rows.start), level, extent)
        return canvas

    def read_inside(self, xy_px: tuple[int, int], level: int, size: tuple[int, int]) -> ndarray:
        """Read a region that lies inside the level; a reader overrides either this method or
        ``read_level``.
        """
        raise NotImplementedError

    def read_region(self, xy_level0: tuple[int, int], level: int, size: tuple[int, int]) -> ndarray:
        """Read ``size`` pixels of ``level``, starting at the pixel nearest to ``xy_level0``
        (absolute level-0 px).

        All readers round to the nearest pixel on each axis, so ``round(k * downsample)`` reads from
        pixel k exactly.

        Returns:
            (h, w, 3) uint8 RGB; pixels outside the image, and transparent ones, are white.

        Raises:
            SlideError: the pixels cannot be decoded.
            HangingReadError: this read timed out, or an earlier one still hangs.
        """
        if any(call.hangs for call in self._reads):
            raise HangingReadError(f"{self.path}: is no longer read, because an earlier read hangs")
        downsample = self.properties.level_downsamples[level]
        x, y = (floor(at / d + 0.5) for at, d in zip(xy_level0, downsample, strict=True))
        doing = f"{self.path}: reading {size[0]} x {size[1]} px at ({x}, {y}) of level {level}"
        return call_in_time(doing, self._read, (x, y), level, size)

    def _read(self, *region: Any) -> ndarray:
        """Call ``read_level``, and list the call in ``_reads`` while it runs."""
        call = current_call()
        self._reads.append(call)
        try:
            return self.read_level(*region)
        finally:
            self._reads.remove(call)
            del call, self  # avoids a cycle: the exception in the call refers to this frame

    @abstractmethod
    def close(self) -> None:
        """Release the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._reads:  # a hanging read still uses the file
            self.close()


def open_slide(path: Path | str, reader: str | None = None) -> SlideReader:
    """Open a slide, or a folder written by `muse step fetch`, with ``reader`` or the first reader
    that accepts it.

    Raises:
        SlideError: the file is missing, empty, truncated or not a slide, or the path is any other
            folder.
        HangingReadError: opening the file timed out.
        ConfigError: the reader is unknown.
    """
    path = slide_file(Path(path))
    return call_in_time(f"{path}: opening it", _open_slide, path, reader)


def _open_slide(path: Path, reader: str | None) -> SlideReader:
    require_file(path)
    reasons = []
    names = READERS.names() if reader is None else [reader]
    for candidate in sorted((READERS[name] for name in names), key=lambda kind: kind.priority):
        try:
            return candidate(path)
        except UnsuitedError as error:
            reasons.append(error)
    nearly = [error for error in reasons if isinstance(error, NearlyReadError)]
    of_its_kind = [error for error in reasons if not isinstance(error, OtherFormatError)]
    raise SlideError(
        why_unreadable(path, "; ".join(map(str, nearly or (of_its_kind or reasons)[-1:])))
    )


def exact_downsamples(level_sizes_px: Sequence[tuple[int, int]]) -> tuple[tuple[float, float], ...]:
    """(x, y) level-0 pixels per pixel of every level.

    If level 0 is 1,001 pixels wide, a level of 250 pixels is 4 times smaller, with a pixel cut off;
    with a downsample of 4.004, positions would drift towards the far edge. So if the sizes agree
    with a whole factor up to rounding, this factor is used, the same for both axes if possible.
    """
    return tuple(_exact_downsample(level_sizes_px[0], size) for size in level_sizes_px)


def _exact_downsample(size0_px: tuple[int, int], size_px: tuple[int, int]) -> tuple[float, float]:
    ratio = size0_px[0] / size_px[0], size0_px[1] / size_px[1]
    longer = ratio[int(size_px[1] > size_px[0])]  # more exact than the ratio of the shorter sides
    x, y = (_whole_factors(s0, s) for s0, s in zip(size0_px, size_px, strict=True))
    if both := x & y:  # several factors fit a small level; scanners use powers of two
        whole = min(both, key=lambda factor: (factor.bit_count() > 1, abs(factor - longer)))
        return float(whole), float(whole)
    return tuple(
        float(_nearest(factors, side)) for factors, side in zip((x, y), ratio, strict=True)
    )


def _nearest(numbers: set[int], to: float) -> float:
    return min(numbers, key=lambda number: abs(number - to), default=to)


def _whole_factors(size0_px: int, size_px: int) -> set[int]:
    """Whole numbers f for which ``size0_px`` / f, rounded up or down, is ``size_px``."""
    least = size0_px // (size_px + 1)
    most = size0_px // max(size_px - 1, 1) + 1
    return {
        f for f in range(max(least, 1), most + 1) if size0_px // f <= size_px <= -(-size0_px // f)
    }


def white_canvas(size: tuple[int, int]) -> ndarray:
    """(h, w, 3) uint8, all white."""
    return np.full((size[1], size[0], 3), WHITE, np.uint8)


def overlap(
    xy_px: tuple[int, int], size: tuple[int, int], level_size_px: tuple[int, int]
) -> tuple[tuple[slice, slice], tuple[slice, slice]] | None:
    """Overlap of a region with its level: (rows, columns) within the level and within the region;
    None if disjoint.
    """
    level, region = [], []
    for start, extent, limit in zip(xy_px[::-1], size[::-1], level_size_px[::-1], strict=True):
        first, last = max(start, 0), min(start + extent, limit)
        if first >= last:
            return None
        level.append(slice(first, last))
        region.append(slice(first - start, last - start))
    return tuple(level), tuple(region)


def walk_tiles(
    rows: slice, columns: slice, tile_px: tuple[int, int]
) -> Iterator[tuple[int, int, tuple[slice, slice], tuple[slice, slice]]]:
    """Yield the row and column of each tile of (width, height) ``tile_px`` that a region of a level
    touches, and their overlap: (rows, columns) within the tile and within the region.
    """
    (width, height), extent = tile_px, (columns.stop - columns.start, rows.stop - rows.start)
    for row in range(rows.start // height, -(-rows.stop // height)):
        for column in range(columns.start // width, -(-columns.stop // width)):
            corner = columns.start - column * width, rows.start - row * height
            if meeting := overlap(corner, extent, tile_px):
                yield row, column, *meeting


def alpha_of(extra_samples: Iterable[Enum], pixels: ndarray | None) -> Alpha:
    """Meaning of the last sample in the ``pixels`` (h, w, n) of a TIFF page, from tifffile's enums
    of extra samples.

    A sample that is stated to be opacity, or without a stated meaning, is opacity unless it is the
    same, less than full opacity everywhere in ``pixels``, because it would only make the whole
    picture pale.
    """
    name = next((sample.name for sample in extra_samples), "")
    if name in {"", "UNASSALPHA"} and pixels is not None:
        last = pixels[..., -1]
        if last.size and last.min() == last.max() < 255:
            return "none"
    return {"UNSPECIFIED": "none", "ASSOCALPHA": "multiplied in"}.get(name, "opacity")


def rgb_on_white(pixels: ndarray, alpha: Alpha = "opacity") -> ndarray:
    """Blend uint8 pixels, (h, w) or (h, w, 1 to 4) grey, grey + alpha, RGB or RGB + alpha, with
    white: (h, w, 3) uint8.

    An alpha that is "multiplied in" is an opacity by which the colours are already multiplied.
    """
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    colour = pixels[..., :3] if pixels.shape[-1] >= 3 else np.repeat(pixels[..., :1], 3, axis=-1)
    if pixels.shape[-1] in (2, 4) and alpha != "none":
        opacity = pixels[..., -1:].astype(np.uint16)
        weight = opacity if alpha == "opacity" else np.uint16(255)
        # In faulty files, premultiplied colours exceed their opacity, so sums need 32 bits, and
        # results are clipped.
        laid = (colour * weight + np.uint32(255) * (255 - opacity) + 127) // 255
        colour = laid.clip(max=255).astype(np.uint8)
    return np.ascontiguousarray(colour)


DEPTHS = (8, 10, 12, 14, 16)  # numbers of bits that cameras use of 16
RARE = 1e-4  # share of pixels that may need more bits, such as hot pixels
# percentile of values that are bright in bright field, at least ``LEAST_BRIGHT`` in 8 bits
BRIGHTEST = 98
LEAST_BRIGHT = 100


def to_uint8(pixels: ndarray, path: Path, stated_bits: int = 16) -> ndarray:
    """Convert integers of 8 or 16 bits, or booleans, to 8 bits.

    Without a statement, the smallest of these depths that contains all
    values is assumed, since a picture in bright field is nearly white somewhere.
    """
    if pixels.dtype == bool:
        return pixels * np.uint8(255)
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.uint16 or (
        pixels.dtype == np.int32 and pixels.min() >= 0 and pixels.max() < 1 << 16
    ):
        upper = keep_upper(pixels, used_bits(pixels, stated_bits))
        if (bright := np.percentile(upper[::7, ::7], BRIGHTEST)) < LEAST_BRIGHT:
            raise SlideError(
                f"{path}: its 16-bit pixels are dark ({BRIGHTEST} % are below {bright + 1:.0f} of"
                " 256), so the value of white is unknown; export it as 8-bit RGB with a white"
                " background"
            )
        return upper
    raise SlideError(
        f"{path}: has {pixels.dtype} pixels, expected 8 or 16 bits; export it as 8-bit RGB"
    )


def used_bits(pixels: ndarray, stated: int = 16) -> int:
    """The number of bits that pixels of 16 bits use: ``stated``, or fewer than 16 if hardly any
    value needs more.
    """
    most = pixels.size * RARE
    least = next(
        bits for bits in DEPTHS if bits == DEPTHS[-1] or np.count_nonzero(pixels >> bits) <= most
    )
    return max(stated, least) if stated < 16 else least


def keep_upper(pixels: ndarray, bits: int) -> ndarray:
    """The upper 8 of the ``bits`` that pixels use, as uint8; larger values become 255."""
    return (pixels >> bits - 8).clip(max=255).astype(np.uint8)
