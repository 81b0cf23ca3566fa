"""The pixels of many nuclei at once: in the nucleus, in its rim, and in the ring around it.

Outlines are filled row by row. Where an edge crosses the centre line of a row of pixels, the index of the first pixel
to the right is recorded. In ascending order, the indices of an outline alternately start and end runs of pixels; the
indices of two nested outlines together delimit the zone between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from muse_pipeline.nuclei.rays import ray_directions

RIM_UM, RING_UM = 1.0, 2.0
ROW_STEP = 2  # only every second row of pixels is measured in cells
_LAST = np.iinfo(np.int32).max  # pads arrays of crossings; exceeds every pixel index


@dataclass(frozen=True)
class Pixels:
    """Pixels of N nuclei, nucleus by nucleus and row by row, as indices (M,) int32 in the flattened image.

    Nucleus i has the pixels ``pixel[start[i]:start[i + 1]]``, with ``start`` (N + 1,).
    """

    pixel: np.ndarray
    start: np.ndarray

    @cached_property
    def n(self) -> np.ndarray:
        """(N,) number of pixels of each nucleus."""
        return np.diff(self.start)

    @cached_property
    def owner(self) -> np.ndarray:
        """(M,) index of each pixel's nucleus."""
        return np.repeat(np.arange(len(self.start) - 1), self.n)

    def where(self, chosen: np.ndarray) -> Pixels:
        """The pixels for which ``chosen`` (M,) bool is True."""
        kept = np.flatnonzero(chosen)
        return Pixels(self.pixel.take(kept), np.searchsorted(kept, self.start))

    def sum(self, values: np.ndarray) -> np.ndarray:
        """(N,) sum of ``values`` (M,) in each nucleus; float64, or int64 if the values are integers."""
        kind = np.float64 if values.dtype.kind == "f" else np.int64
        sums, is_filled = np.zeros(len(self.start) - 1, kind), self.n > 0
        if is_filled.any():
            sums[is_filled] = np.add.reduceat(values, self.start[:-1][is_filled], dtype=kind)
        return sums


@dataclass(frozen=True)
class Zones:
    """Pixels of N nuclei by zone. If nuclei overlap, a pixel can belong to several of them."""

    nucleus: Pixels  # pixels whose centres lie within the outline
    rim: Pixels  # pixels of the nucleus that are lost if every ray is shortened by ``RIM_UM``
    ring: Pixels  # pixels that are gained if every ray is lengthened by ``RING_UM``
    outline: np.ndarray  # (N, C) int32 crossings of the outline, as from ``cross_rows``, but with all rows


def find_zones(xy: np.ndarray, rays_um: np.ndarray, mpp: float, corner: np.ndarray, shape: tuple[int, int]) -> Zones:
    """The zones of nuclei in an image of ``shape`` (h, w), without pixels outside the image.

    The centres (N, 2) are in pixels of the slide at ``mpp``, the rays (N, R) in um, and the ``corner`` (x, y) is the
    image's first pixel on the slide.
    """
    rays = np.asarray(rays_um, float)
    outlines = rays, np.maximum(rays - RIM_UM, 0), rays + RING_UM
    own, core, outer = (_crossings(xy, outline, mpp, corner, shape) for outline in outlines)
    return Zones(fill(own), fill(own, core), fill(own, outer), own)


def cross_rows(
    xy: np.ndarray, rays_um: np.ndarray, mpp: float, corner: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """Crossings of outlines with every ``ROW_STEP``-th row of the image, for ``fill``.

    Arguments are the same as for ``find_zones``; the y of ``corner`` must be a multiple of ``ROW_STEP``.
    """
    step, size = np.array([1, ROW_STEP]), (-(-shape[0] // ROW_STEP), shape[1])
    at = xy / step + [0, 0.5 - 0.5 / ROW_STEP]  # so that the centres of measured rows are at 0.5, 1.5, ...
    return _crossings(at, np.asarray(rays_um, float), mpp * step, corner // step, size)


def thin_rows(outline: np.ndarray, width: int) -> np.ndarray:
    """The result of ``cross_rows``, computed from ``Zones.outline`` (N, C) in an image of this width."""
    runs = np.sort(outline, axis=1).reshape(len(outline), -1, 2)
    row = runs[..., :1] // width  # from the start of a run, because its end may be the start of the next row
    counts = (row % ROW_STEP == 0) & (runs[..., :1] < _LAST)
    return np.where(counts, runs - (row - row // ROW_STEP) * np.int32(width), _LAST).reshape(outline.shape)


def find_nuclei(xy: np.ndarray, rays_um: np.ndarray, mpp: float, corner: np.ndarray, shape: tuple[int, int]) -> Pixels:
    """The pixels within the outlines of nuclei, as in the ``nucleus`` of ``find_zones``."""
    return fill(_crossings(xy, np.asarray(rays_um, float), mpp, corner, shape))


def to_rows(values: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Consecutive runs of ``n`` (N,) int32 values as rows of an array (N, max n), padded with the largest int32."""
    rows = np.full((len(n), n.max(initial=0)), _LAST, np.int32)
    rows.reshape(-1)[count_from(np.arange(len(n)) * rows.shape[1], n)] = values
    return rows


def count_from(first: np.ndarray, n: np.ndarray) -> np.ndarray:
    """For each i in turn, the n[i] integers first[i], first[i] + 1, ..."""
    end = np.cumsum(n)
    return np.arange(end[-1] if len(n) else 0, dtype=first.dtype) + np.repeat(
        (first - (end - n)).astype(first.dtype), n
    )


def _crossings(
    xy: np.ndarray, rays: np.ndarray, mpp: float | np.ndarray, corner: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """(N, C) int32: indices of the pixels to the right of the points where outlines cross rows, padded by ``to_rows``.

    Outlines beyond a side of the image cross at that side. Vertices are computed relative to the pixel of the centre,
    so that rounding does not depend on the image.
    """
    height, width = shape
    whole = np.floor(xy)
    directions = ray_directions(rays.shape[1]) / mpp
    x, y = (rays * directions[:, axis] + (xy[:, axis] - whole[:, axis] - 0.5)[:, None] for axis in (0, 1))
    left, top = (whole - corner).astype(np.int32).T[..., None]
    row = np.clip(np.ceil(y).astype(np.int32), -top, height - top)  # first row with its centre not above the vertex
    next_x, next_y, next_row = (np.concatenate([values[:, 1:], values[:, :1]], axis=1) for values in (x, y, row))
    n_rows, first_row = np.abs(next_row - row), np.minimum(row, next_row)
    with np.errstate(divide="ignore", invalid="ignore"):  # for edges that do not cross a row
        slope = (next_x - x) / (next_y - y)
        x += (first_row - y) * slope
    x, slope, first = (np.repeat(values, n_rows.ravel()) for values in (x, slope, (first_row + top) * width))
    nth = count_from(np.zeros(n_rows.size, np.int32), n_rows.ravel())
    n = n_rows.sum(1)
    column = np.ceil(x + nth * slope).astype(np.int32) + np.repeat(left, n)
    return to_rows(first + nth * width + np.clip(column, 0, width), n)


def fill(*outlines: np.ndarray) -> Pixels:
    """The pixels of each nucleus that lie within an odd number of its outlines, given as crossings with rows."""
    ascending = np.sort(np.concatenate(outlines, axis=1), axis=1)
    begin, end = ascending[:, ::2], ascending[:, 1::2]
    length = end - begin  # 0 for padding
    start = np.append(0, np.cumsum(length.sum(1)))
    return Pixels(count_from(begin.ravel(), length.ravel()), start)
