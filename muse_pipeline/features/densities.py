"""Stains of nuclei: optical densities of the nucleus, its rim and the ring around it, and texture within the nucleus.

Densities are integer multiples of ``STEP``, so that sums are exact and do not depend on how a slide is divided into
images. Texture is measured in haematoxylin: gradient, histogram and the features of Haralick, Shanmugam & Dinstein,
"Textural features for image classification", IEEE Trans Syst Man Cybern 1973. The latter come from one symmetric matrix
per nucleus, which counts the pairs of adjacent pixels in all four directions.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from muse_pipeline.features.zones import Pixels, Zones, to_rows
from muse_pipeline.tissue.stain import DENSITY

PERCENTILES = (10, 50, 90)
STEP = 2.0**-20  # unit of integer densities, in OD


def stain_tables(stains: np.ndarray) -> np.ndarray:
    """Contribution (S, 3, 256) int32 of each value of each channel to the density of each stain (S, 3), in ``STEP``."""
    shares = np.linalg.pinv(np.asarray(stains, float)).T  # least-squares weights
    return np.rint(shares[..., None] * (DENSITY.astype(float) / np.log(10) / STEP)).astype(np.int32)


def split_stain(planes: Sequence[np.ndarray], table: np.ndarray) -> np.ndarray:
    """Density (h, w) int32 of a stain, from three channels (h, w) uint8 and its table (3, 256) of ``stain_tables``."""
    density, *others = (_look_up(plane, part) for plane, part in zip(planes, table, strict=True))
    for other in others:
        density += other
    return density


def _look_up(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The entries of ``table`` (256,) for values (h, w) uint8."""
    return cv2.LUT(values, table) if values.size else np.zeros(values.shape, table.dtype)  # LUT returns None if empty


def _gather(planes: Sequence[np.ndarray], pixel: np.ndarray) -> list[np.ndarray]:
    """Three channels (M, 1) uint8 of the pixels with these indices (M,) in planes (h, w) uint8."""
    pixel = pixel.astype(np.intp, copy=False)  # converted once for all channels
    return [plane.take(pixel)[:, None] for plane in planes]


def measure_densities(zones: Zones, planes: np.ndarray, tables: np.ndarray) -> dict[str, np.ndarray]:
    """The features of groups *h* and *e*, (N,) each in OD, from planes (3, h, w) uint8; NaN for zones without pixels.

    The rings of the zones must not contain pixels of other nuclei. The tables (2, 3, 256) come from ``stain_tables``.
    """
    values = [_gather(planes, part.pixel) for part in (zones.nucleus, zones.rim, zones.ring)]
    features = {}
    for stain, table in zip("he", tables, strict=True):
        nucleus, rim, ring = (split_stain(channels, table).ravel() for channels in values)
        mean, sd = mean_and_sd(zones.nucleus, nucleus)
        measures = {"mean": mean, "sd": sd, "rim_mean": _mean(zones.rim, rim), "ring_mean": _mean(zones.ring, ring)}
        ranked = _percentiles(nucleus, zones.nucleus.n)
        measures |= {f"p{percent}": density for percent, density in zip(PERCENTILES, ranked, strict=True)}
        features |= {f"{stain}_{name}": density * STEP for name, density in measures.items()}
    return features


def mean_densities(pixels: Pixels, planes: Sequence[np.ndarray]) -> np.ndarray:
    """Mean optical density (N, 3) of each of three channels (h, w) uint8; NaN for nuclei without pixels."""
    table = np.rint(DENSITY.astype(float) / np.log(10) / STEP).astype(np.int32)
    densities = (_look_up(channel, table).ravel() for channel in _gather(planes, pixels.pixel))
    return np.stack([_mean(pixels, values) * STEP for values in densities], -1)


def mean_and_sd(pixels: Pixels, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation, (N,) each, of ``values`` (M,) over the pixels of each nucleus."""
    mean = _mean(pixels, values)
    values = values.astype(np.result_type(values, np.int64))
    return mean, np.sqrt(np.maximum(_mean(pixels, values * values) - mean * mean, 0))


def _mean(pixels: Pixels, values: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return pixels.sum(values) / pixels.n


def _percentiles(values: np.ndarray, n: np.ndarray) -> list[np.ndarray]:
    """``PERCENTILES``, (N,) each, of consecutive runs of ``n`` (N,) values, as from ``numpy.percentile``."""
    ascending = to_rows(values, n)
    ascending.sort(axis=1)
    last, row = n - 1, np.flatnonzero(n)
    percentiles = np.full((len(PERCENTILES), len(n)), np.nan)
    for percentile, percent in zip(percentiles, PERCENTILES, strict=True):
        rank = last[row] * (percent / 100)
        below = np.floor(rank).astype(int)
        low, high = (ascending[row, at].astype(float) for at in (below, np.minimum(below + 1, last[row])))
        percentile[row] = low + (high - low) * (rank - below)
    return list(percentiles)


LEVEL_OD, N_LEVELS = 0.05, 32  # the last level includes densities above 1.6, and the first level negative ones


def measure_texture(nuclei: Pixels, planes: np.ndarray, table: np.ndarray, mpp: float) -> dict[str, np.ndarray]:
    """The features of the group *texture*, (N,) each, from planes (3, h, w) uint8; NaN where a feature is undefined.

    The table (3, 256) of haematoxylin comes from ``stain_tables``.
    """
    (height, width), pixel = planes.shape[1:], nuclei.pixel.astype(np.intp)  # converted once for all channels
    y = nuclei.pixel // width  # vectorised, unlike divmod
    x = nuclei.pixel - y * np.int32(width)
    # The pixels themselves, and those to the right, to the left, below and above, if the image has them.
    shifts = 0, x < width - 1, -1 * (x > 0), width * (y < height - 1), -width * (y > 0)
    values, *beside = (split_stain(_gather(planes, pixel + shift), table).ravel() for shift in shifts)
    level = (values * (STEP / LEVEL_OD)).astype(np.int32).clip(0, N_LEVELS - 1)
    across, down = ((beside[k] - beside[k + 1]).astype(float) for k in (0, 2))
    gradient_mean, gradient_sd = mean_and_sd(nuclei, np.sqrt(across * across + down * down) / 2 * (STEP / mpp))
    return {
        "texture_gradient_mean": gradient_mean,
        "texture_gradient_sd": gradient_sd,
        "texture_entropy": _entropy(nuclei, level),
        **_haralick(nuclei, level, x, y),
        "texture_clumped_fraction": _clumped_fraction(nuclei, values),
    }


def _entropy(nuclei: Pixels, level: np.ndarray) -> np.ndarray:
    n = len(nuclei.n)
    counts = np.bincount(nuclei.owner * N_LEVELS + level, minlength=n * N_LEVELS).reshape(n, N_LEVELS)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = counts / nuclei.n[:, None]
        return np.where(nuclei.n > 0, -np.nansum(share * np.log2(share), 1), np.nan)


def _haralick(nuclei: Pixels, level: np.ndarray, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Haralick's features of each nucleus.

    The co-occurrence matrix of a nucleus is indexed by the difference of both levels and by the lower level. All
    features but the homogeneity are quotients of sums of integers.
    """
    n = len(nuclei.n)
    cell, stride = _cells(nuclei, x, y)
    level, n_levels = level.astype(np.int16), int(level.max(initial=0)) + 1
    level_of_cell = np.full(cell.max(initial=0) + stride + 2, -1, np.int16)
    level_of_cell[cell] = level
    first_entry, none = nuclei.owner * (n_levels**2 + 1), np.int16(n_levels**2)  # the last entry is for missing pairs
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
    sum_of_squares = sum(np.einsum("nk,nk->n", part, part) for part in (counts, counts[:, :n_levels])) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = sums / (2 * n_pairs)
        variance = (2 * products + differences) / (2 * n_pairs) - mean**2  # over both pixels of every pair
        correlation = np.where(variance > 1e-9, (products / n_pairs - mean**2) / variance, np.nan)
        return {
            "texture_contrast": differences / n_pairs,
            "texture_correlation": correlation,
            "texture_homogeneity": inverse / n_pairs,
            "texture_asm": sum_of_squares / n_pairs**2,
        }


def _cells(nuclei: Pixels, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, int]:
    """Copy each nucleus to a box of its own: cell (M,) of each pixel, and the number of cells in a row of any box.

    Cells are numbered through all boxes. A box has a margin to the right and below, so that no pixel of a nucleus is
    adjacent to another nucleus.
    """
    filled = np.flatnonzero(nuclei.n)
    if not len(filled):
        return np.zeros(0, int), 1
    first, last = nuclei.start[filled], nuclei.start[filled + 1] - 1
    left, right = np.minimum.reduceat(x, first), np.maximum.reduceat(x, first)
    stride = int((right - left).max()) + 2
    n_rows = y[last] - y[first] + 2
    shift = (np.cumsum(n_rows) - n_rows - y[first]) * stride - left
    return np.repeat(shift, nuclei.n[filled]) + y * stride + x, stride


def _clumped_fraction(nuclei: Pixels, values: np.ndarray) -> np.ndarray:
    mean, sd = mean_and_sd(nuclei, values)
    dense, total = values > np.repeat(mean + sd, nuclei.n), nuclei.sum(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total > 0, nuclei.sum(values * dense) / total, np.nan)
