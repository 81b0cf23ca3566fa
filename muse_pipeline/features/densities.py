"""Stains of nuclei: optical densities of the nucleus, its rim and the ring around it, and texture
within the nucleus.

The pixels of many nuclei are found at once, row by row. Where an edge of an outline crosses the
centre line of a row of pixels, the index of the first pixel to the right is recorded. In ascending
order, the indices of an outline alternately start and end runs of pixels; the indices of two nested
outlines together delimit the zone between them.

Densities are integer multiples of ``STEP``, so that sums are exact and do not depend on how a slide
is divided into images. Texture is measured in haematoxylin: gradient, histogram and the features of
Haralick, Shanmugam & Dinstein, "Textural features for image classification", IEEE Trans Syst Man
Cybern 1973. The latter come from one symmetric matrix per nucleus, which counts the pairs of
adjacent pixels in all four directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy import ndarray

from muse_pipeline.nuclei.rays import ray_directions
from muse_pipeline.tissue.stain import DENSITY

RIM_UM, RING_UM = 1.0, 2.0
ROW_STEP = 2  # only every second row of pixels is measured in cells
_LAST = np.iinfo(np.int32).max  # pads arrays of crossings; exceeds every pixel index


@dataclass(frozen=True)
class Pixels:
    """Pixels of N nuclei, nucleus by nucleus and row by row, as indices (M,) int32 in the flattened
    image.

    Nucleus i has the pixels ``pixel[start[i]:start[i + 1]]``, with ``start`` (N + 1,).
    """

    pixel: ndarray
    start: ndarray

    @cached_property
    def n(self) -> ndarray:
        """(N,) number of pixels of each nucleus."""
        return np.diff(self.start)

    @cached_property
    def owner(self) -> ndarray:
        """(M,) index of each pixel's nucleus."""
        return np.repeat(np.arange(len(self.start) - 1), self.n)

    def where(self, chosen: ndarray) -> Pixels:
        """The pixels for which ``chosen`` (M,) bool is True."""
        kept = np.flatnonzero(chosen)
        return Pixels(self.pixel.take(kept), np.searchsorted(kept, self.start))

    def sum(self, values: ndarray) -> ndarray:
        """(N,) sum of ``values`` (M,) in each nucleus; float64, or int64 if the values are
        integers.
        """
        kind = np.float64 if values.dtype.kind == "f" else np.int64
        sums = np.zeros(len(self.start) - 1, kind)
        is_filled = self.n > 0
        if is_filled.any():
            sums[is_filled] = np.add.reduceat(values, self.start[:-1][is_filled], dtype=kind)
        return sums


@dataclass(frozen=True)
class Zones:
    """Pixels of N nuclei by zone. If nuclei overlap, a pixel can belong to several of them."""

    nucleus: Pixels  # pixels whose centres lie within the outline
    rim: Pixels  # pixels of the nucleus that are lost if every ray is shortened by ``RIM_UM``
    ring: Pixels  # pixels that are gained if every ray is lengthened by ``RING_UM``


def find_zones(
    xy: ndarray, rays_um: ndarray, mpp: float, corner: ndarray, shape: tuple[int, int]
) -> Zones:
    """The zones of nuclei in an image of ``shape`` (h, w), without pixels outside the image.

    The centres (N, 2) are in pixels of the slide at ``mpp``, the rays (N, R) in um, and the
    ``corner`` (x, y) is the image's first pixel on the slide.
    """
    rays = np.asarray(rays_um, float)
    outlines = rays, np.maximum(rays - RIM_UM, 0), rays + RING_UM
    own, core, outer = (cross_rows(xy, outline, mpp, corner, shape) for outline in outlines)
    return Zones(fill(own), fill(own, core), fill(own, outer))


def to_rows(values: ndarray, n: ndarray) -> ndarray:
    """Consecutive runs of ``n`` (N,) int32 values as rows of an array (N, max n), padded with the
    largest int32.
    """
    rows = np.full((len(n), n.max(initial=0)), _LAST, np.int32)
    rows.reshape(-1)[count_from(np.arange(len(n)) * rows.shape[1], n)] = values
    return rows


def count_from(first: ndarray, n: ndarray) -> ndarray:
    """For each i in turn, the n[i] integers first[i], first[i] + 1, ...

    They are sums of steps, because ``numpy.repeat`` blocks all other threads.
    """
    runs = np.flatnonzero(n)
    first, n = first.take(runs), n.take(runs)
    end = np.cumsum(n)
    steps = np.ones(end[-1] if len(n) else 0, first.dtype)
    steps[:1] = first[:1]
    steps[end[:-1]] = first[1:] - (first[:-1] + n[:-1] - 1)
    return np.cumsum(steps, out=steps)


def cross_rows(
    xy: ndarray,
    rays_um: ndarray,
    mpp: float,
    corner: ndarray,
    shape: tuple[int, int],
    step: int = 1,
) -> ndarray:
    """(N, C) int32: indices of the pixels to the right of the points where outlines cross every
    ``step``-th row of an image, for ``fill``; padded by ``to_rows``.

    Arguments are the same as for ``find_zones``; the y of ``corner`` must be a multiple of
    ``step``. Outlines beyond a side of the image cross at that side. Vertices are computed relative
    to the pixel of the centre, so that rounding does not depend on the image.
    """
    rays, steps = np.asarray(rays_um, float), np.array([1, step])
    # so that the centres of measured rows are at 0.5, 1.5, ...
    xy, corner = xy / steps + [0, 0.5 - 0.5 / step], corner // steps
    height, width = -(-shape[0] // step), shape[1]
    whole = np.floor(xy)
    directions = ray_directions(rays.shape[1]) / (mpp * steps)
    x, y = (
        rays * directions[:, axis] + (xy[:, axis] - whole[:, axis] - 0.5)[:, None]
        for axis in (0, 1)
    )
    left, top = (whole - corner).astype(np.int32).T[..., None]
    # first row with its centre not above the vertex
    row = np.clip(np.ceil(y).astype(np.int32), -top, height - top)
    next_x, next_y, next_row = (
        np.concatenate([values[:, 1:], values[:, :1]], axis=1) for values in (x, y, row)
    )
    n_rows = np.abs(next_row - row)
    first_row = np.minimum(row, next_row)
    with np.errstate(divide="ignore", invalid="ignore"):  # for edges that do not cross a row
        slope = (next_x - x) / (next_y - y)
        x += (first_row - y) * slope
    end = np.cumsum(n_rows.ravel(), dtype=np.int32)
    edge = np.repeat(np.arange(len(end)), n_rows.ravel())
    x, slope, first = (values.take(edge) for values in (x, slope, (first_row + top) * width))
    nth = np.arange(len(edge), dtype=np.int32) - (end - n_rows.ravel()).take(edge)
    column = np.ceil(x + nth * slope).astype(np.int32) + left.take(edge // rays.shape[1])
    return to_rows(first + nth * width + np.clip(column, 0, width), n_rows.sum(1))


def fill(*outlines: ndarray) -> Pixels:
    """The pixels of each nucleus that lie within an odd number of its outlines, given as crossings
    with rows.
    """
    ascending = np.sort(np.concatenate(outlines, axis=1), axis=1)
    begin, end = ascending[:, ::2], ascending[:, 1::2]
    length = end - begin  # 0 for padding
    start = np.append(0, np.cumsum(length.sum(1)))
    return Pixels(count_from(begin.ravel(), length.ravel()), start)


PERCENTILES = (10, 50, 90)
STEP = 2.0**-20  # unit of integer densities, in OD


def stain_tables(stains: ndarray) -> ndarray:
    """Contribution (S, 3, 256) int32 of each value of each channel to the density of each stain (S,
    3), in ``STEP``.
    """
    shares = np.linalg.pinv(np.asarray(stains, float)).T  # least-squares weights
    return np.rint(shares[..., None] * (DENSITY.astype(float) / np.log(10) / STEP)).astype(np.int32)


def split_stain(planes: Sequence[ndarray], table: ndarray) -> ndarray:
    """Density (h, w) int32 of a stain, from three channels (h, w) uint8 and its table (3, 256) of
    ``stain_tables``.
    """
    density, *others = (_look_up(plane, part) for plane, part in zip(planes, table, strict=True))
    for other in others:
        density += other
    return density


def _look_up(values: ndarray, table: ndarray) -> ndarray:
    """The entries of ``table`` (256,) for values (h, w) uint8."""
    # LUT returns None if empty
    return cv2.LUT(values, table) if values.size else np.zeros(values.shape, table.dtype)


def _gather(planes: Sequence[ndarray], pixel: ndarray) -> list[ndarray]:
    """Three channels (M, 1) uint8 of the pixels with these indices (M,) in planes (h, w) uint8."""
    pixel = pixel.astype(np.intp, copy=False)  # converted once for all channels
    return [plane.take(pixel)[:, None] for plane in planes]


def measure_densities(zones: Zones, planes: ndarray, tables: ndarray) -> dict[str, ndarray]:
    """The features of groups *h* and *e*, (N,) each in OD, from planes (3, h, w) uint8; NaN for
    zones without pixels.

    The rings of the zones must not contain pixels of other nuclei. The tables (2, 3, 256) come from
    ``stain_tables``.
    """
    values = [_gather(planes, part.pixel) for part in (zones.nucleus, zones.rim, zones.ring)]
    features = {}
    for stain, table in zip("he", tables, strict=True):
        nucleus, rim, ring = (split_stain(channels, table).ravel() for channels in values)
        mean, sd = mean_and_sd(zones.nucleus, nucleus)
        measures = {
            "mean": mean,
            "sd": sd,
            "rim_mean": _mean(zones.rim, rim),
            "ring_mean": _mean(zones.ring, ring),
        }
        ranked = _percentiles(nucleus, zones.nucleus.n)
        measures |= {
            f"p{percent}": density for percent, density in zip(PERCENTILES, ranked, strict=True)
        }
        features |= {f"{stain}_{name}": density * STEP for name, density in measures.items()}
    return features


def mean_densities(pixels: Pixels, planes: Sequence[ndarray]) -> ndarray:
    """Mean optical density (N, 3) of each of three channels (h, w) uint8; NaN for nuclei without
    pixels.
    """
    table = np.rint(DENSITY.astype(float) / np.log(10) / STEP).astype(np.int32)
    densities = (_look_up(channel, table).ravel() for channel in _gather(planes, pixels.pixel))
    return np.stack([_mean(pixels, values) * STEP for values in densities], -1)


def mean_and_sd(pixels: Pixels, values: ndarray) -> tuple[ndarray, ndarray]:
    """Mean and standard deviation, (N,) each, of ``values`` (M,) over the pixels of each
    nucleus.
    """
    mean = _mean(pixels, values)
    values = values.astype(np.result_type(values, np.int64))
    return mean, np.sqrt(np.maximum(_mean(pixels, values * values) - mean * mean, 0))


def _mean(pixels: Pixels, values: ndarray) -> ndarray:
    with np.errstate(invalid="ignore"):
        return pixels.sum(values) / pixels.n


def _percentiles(values: ndarray, n: ndarray) -> list[ndarray]:
    """``PERCENTILES``, (N,) each, of consecutive runs of ``n`` (N,) values, as from
    ``numpy.percentile``.
    """
    ascending = to_rows(values, n)
    ascending.sort(axis=1)
    last, row = n - 1, np.flatnonzero(n)
    percentiles = np.full((len(PERCENTILES), len(n)), np.nan)
    for percentile, percent in zip(percentiles, PERCENTILES, strict=True):
        rank = last[row] * (percent / 100)
        below = np.floor(rank).astype(int)
        low, high = (
            ascending[row, at].astype(float) for at in (below, np.minimum(below + 1, last[row]))
        )
        percentile[row] = low + (high - low) * (rank - below)
    return list(percentiles)


# the last level includes densities above 1.6, and the first level negative ones
LEVEL_OD, N_LEVELS = 0.05, 32


def measure_texture(
    nuclei: Pixels, planes: ndarray, table: ndarray, mpp: float
) -> dict[str, ndarray]:
    """The features of the group *texture*, (N,) each, from planes (3, h, w) uint8; NaN where a
    feature is undefined.

    The table (3, 256) of haematoxylin comes from ``stain_tables``.
    """
    # converted once for all channels
    (height, width), pixel = planes.shape[1:], nuclei.pixel.astype(np.intp)
    y = nuclei.pixel // width  # vectorised, unlike divmod
    x = nuclei.pixel - y * np.int32(width)
    # The pixels themselves, and those to the right, to the left, below and above, if the image has
    # them.
    shifts = 0, x < width - 1, -1 * (x > 0), width * (y < height - 1), -width * (y > 0)
    values, *beside = (
        split_stain(_gather(planes, pixel + shift), table).ravel() for shift in shifts
    )
    level = (values * (STEP / LEVEL_OD)).astype(np.int32).clip(0, N_LEVELS - 1)
    across, down = ((beside[k] - beside[k + 1]).astype(float) for k in (0, 2))
    gradient_mean, gradient_sd = mean_and_sd(
        nuclei, np.sqrt(across * across + down * down) / 2 * (STEP / mpp)
    )
    return {
        "texture_gradient_mean": gradient_mean,
        "texture_gradient_sd": gradient_sd,
        "texture_entropy": _entropy(nuclei, level),
        **_haralick(nuclei, level, x, y),
        "texture_clumped_fraction": _clumped_fraction(nuclei, values),
    }


def _entropy(nuclei: Pixels, level: ndarray) -> ndarray:
    n = len(nuclei.n)
    counts = np.bincount(nuclei.owner * N_LEVELS + level, minlength=n * N_LEVELS).reshape(
        n, N_LEVELS
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        share = counts / nuclei.n[:, None]
        return np.where(nuclei.n > 0, -np.nansum(share * np.log2(share), 1), np.nan)


def _haralick(nuclei: Pixels, level: ndarray, x: ndarray, y: ndarray) -> dict[str, ndarray]:
    """Haralick's features of each nucleus.

    The co-occurrence matrix of a nucleus is indexed by the difference of both levels and by the
    lower level. All features but the homogeneity are quotients of sums of integers.
    """
    n = len(nuclei.n)
    cell, stride = _cells(nuclei, x, y)
    level, n_levels = level.astype(np.int16), int(level.max(initial=0)) + 1
    level_of_cell = np.full(cell.max(initial=0) + stride + 2, -1, np.int16)
    level_of_cell[cell] = level
    # the last entry is for missing pairs
    first_entry = nuclei.owner * (n_levels**2 + 1)
    none = np.int16(n_levels**2)
    entries = np.empty((4, len(level)), np.int64)
    n_pairs, sums, products = np.zeros((3, len(level)), np.int16)  # over the pairs with each pixel
    for row, step in zip(entries, (1, stride - 1, stride, stride + 1), strict=True):
        other = level_of_cell.take(cell + step)
        is_pair = other >= 0
        entry = np.abs(level - other) * np.int16(n_levels) + np.minimum(level, other)
        np.add(first_entry, np.where(is_pair, entry, none), out=row)
        n_pairs += is_pair
        sums += (level + other) * is_pair
        products += level * other * is_pair
    counts = np.bincount(entries.ravel(), minlength=n * (n_levels**2 + 1)).reshape(n, -1)[:, :-1]
    apart, n_apart = np.arange(N_LEVELS), np.zeros((n, N_LEVELS), int)
    n_apart[:, :n_levels] = counts.reshape(n, n_levels, n_levels).sum(2)
    differences, inverse = ((n_apart * weight).sum(1) for weight in (apart**2, 1 / (1 + apart**2)))
    n_pairs, sums, products = map(nuclei.sum, (n_pairs, sums, products))
    # Counts off the diagonal are twice the entries of the symmetric matrix.
    sum_of_squares = (
        sum(np.einsum("nk,nk->n", part, part) for part in (counts, counts[:, :n_levels])) / 2
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = sums / (2 * n_pairs)
        # over both pixels of every pair
        variance = (2 * products + differences) / (2 * n_pairs) - mean**2
        correlation = np.where(variance > 1e-9, (products / n_pairs - mean**2) / variance, np.nan)
        return {
            "texture_contrast": differences / n_pairs,
            "texture_correlation": correlation,
            "texture_homogeneity": inverse / n_pairs,
            "texture_asm": sum_of_squares / n_pairs**2,
        }


def _cells(nuclei: Pixels, x: ndarray, y: ndarray) -> tuple[ndarray, int]:
    """Copy each nucleus to a box of its own: cell (M,) of each pixel, and the number of cells in a
    row of any box.

    Cells are numbered through all boxes. A box has a margin to the right and below, so that no
    pixel of a nucleus is adjacent to another nucleus.
    """
    filled = np.flatnonzero(nuclei.n)
    if not len(filled):
        return np.zeros(0, int), 1
    first, last = nuclei.start[filled], nuclei.start[filled + 1] - 1
    left = np.minimum.reduceat(x, first)
    right = np.maximum.reduceat(x, first)
    stride = int((right - left).max()) + 2
    n_rows = y[last] - y[first] + 2
    shift = (np.cumsum(n_rows) - n_rows - y[first]) * stride - left
    return np.repeat(shift, nuclei.n[filled]) + y * stride + x, stride


def _clumped_fraction(nuclei: Pixels, values: ndarray) -> ndarray:
    mean, sd = mean_and_sd(nuclei, values)
    dense = values > np.repeat(mean + sd, nuclei.n)
    total = nuclei.sum(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total > 0, nuclei.sum(values * dense) / total, np.nan)
