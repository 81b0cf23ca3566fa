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
    """Contribution (S, 3, 256) int32 of each value of each channel to the density of each stain, in units of ``STEP``.

    Args:
        stains: (S, 3) unit stain vectors, for example of haematoxylin and eosin.
    """
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


def split_near(mask: np.ndarray, planes: Sequence[np.ndarray], table: np.ndarray) -> np.ndarray:
    """``split_stain`` in ``mask`` (h, w) bool and the pixels next to it; other pixels have undefined values."""
    beside = cv2.dilate(mask.view(np.uint8), cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)))
    pixel, density = np.flatnonzero(beside), np.empty(mask.size, np.int32)
    density[pixel] = split_stain([plane.take(pixel)[:, None] for plane in planes], table).ravel()
    return density.reshape(mask.shape)


def measure_densities(zones: Zones, planes: np.ndarray, tables: np.ndarray) -> dict[str, np.ndarray]:
    """The features of the groups *h* and *e*, (N,) each in OD; NaN if a zone has no pixels.

    Args:
        zones: zones of the nuclei, whose rings must not contain pixels of other nuclei.
        planes: (3, h, w) uint8 image.
        tables: (2, 3, 256) from ``stain_tables``.
    """
    parts = zones.nucleus, zones.rim, zones.ring
    values = [[plane.take(part.pixel)[:, None] for plane in planes] for part in parts]
    found = {}
    for stain, table in zip("he", tables, strict=True):
        nucleus, rim, ring = (split_stain(each, table).ravel() for each in values)
        mean, sd = mean_and_sd(zones.nucleus, nucleus)
        measures = {"mean": mean, "sd": sd, "rim_mean": _mean(zones.rim, rim), "ring_mean": _mean(zones.ring, ring)}
        ranked = _percentiles(nucleus, zones.nucleus.n)
        measures |= {f"p{percent}": each for percent, each in zip(PERCENTILES, ranked, strict=True)}
        found |= {f"{stain}_{name}": each * STEP for name, each in measures.items()}
    return found


def mean_densities(pixels: Pixels, planes: Sequence[np.ndarray]) -> np.ndarray:
    """Mean optical density (N, 3) of each of three channels (h, w) uint8; NaN for nuclei without pixels."""
    table = np.rint(DENSITY.astype(float) / np.log(10) / STEP).astype(np.int32)
    pixel = pixels.pixel.astype(np.intp)  # converted once for all channels
    taken = (_look_up(plane.take(pixel)[:, None], table).ravel() for plane in planes)
    return np.stack([_mean(pixels, values) * STEP for values in taken], -1)


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
    found = []
    for percent in PERCENTILES:
        rank = last[row] * (percent / 100)
        below = np.floor(rank).astype(int)
        low, high = (ascending[row, each].astype(float) for each in (below, np.minimum(below + 1, last[row])))
        each = np.full(len(n), np.nan)
        each[row] = low + (high - low) * (rank - below)
        found.append(each)
    return found


LEVEL_OD, N_LEVELS = 0.05, 32  # the last level includes densities above 1.6, and the first level negative ones


def measure_texture(nuclei: Pixels, density: np.ndarray, mpp: float) -> dict[str, np.ndarray]:
    """The features of the group *texture*, (N,) each; NaN where a feature is undefined.

    Args:
        nuclei: pixels of the nuclei.
        density: (h, w) density of haematoxylin in units of ``STEP``; only pixels of nuclei and those next to them need
            values.
        mpp: um per pixel.
    """
    y, x = np.divmod(nuclei.pixel, density.shape[1])
    values = density.ravel().take(nuclei.pixel)
    level = (values * (STEP / LEVEL_OD)).astype(np.int32).clip(0, N_LEVELS - 1)
    gradient_mean, gradient_sd = mean_and_sd(nuclei, _gradient(nuclei, density, x, y) * (STEP / mpp))
    return {
        "texture_gradient_mean": gradient_mean,
        "texture_gradient_sd": gradient_sd,
        "texture_entropy": _entropy(nuclei, level),
        **_haralick(nuclei, level, x, y),
        "texture_clumped_fraction": _clumped_fraction(nuclei, values),
    }


def _gradient(nuclei: Pixels, density: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(M,) magnitude of the gradient per pixel, from central differences at the pixels in columns x and rows y."""
    (height, width), values = density.shape, density.ravel()
    pixel = nuclei.pixel.astype(np.intp)
    across = values.take(pixel + (x < width - 1)) - values.take(pixel - (x > 0))
    down = values.take(pixel + width * (y < height - 1)) - values.take(pixel - width * (y > 0))
    across, down = across.astype(float), down.astype(float)
    return np.sqrt(across * across + down * down) / 2


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
    level = level.astype(np.int16)
    level_of_cell = np.full(cell.max(initial=0) + stride + 2, -1, np.int16)
    level_of_cell[cell] = level
    matrix = nuclei.owner * N_LEVELS**2
    entries = []
    for step in (1, stride - 1, stride, stride + 1):
        other = level_of_cell.take(cell + step)
        known = np.flatnonzero(other >= 0)
        first, second = level.take(known), other.take(known)
        entries.append(matrix.take(known) + (np.abs(first - second) * N_LEVELS + np.minimum(first, second)))
    counts = np.bincount(np.concatenate(entries), minlength=n * N_LEVELS**2).reshape(n, N_LEVELS, N_LEVELS)
    apart = lower = np.arange(N_LEVELS)
    n_apart, lower_sums = counts.sum(2), counts @ lower  # (n, N_LEVELS) each, indexed by difference
    n_pairs, differences, inverse = ((n_apart * each).sum(1) for each in (1, apart**2, 1 / (1 + apart**2)))
    # The product of the two levels of a pair is lower * (lower + apart).
    products = counts.sum(1) @ lower**2 + lower_sums @ apart
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (2 * lower_sums.sum(1) + n_apart @ apart) / (2 * n_pairs)
        variance = (2 * products + differences) / (2 * n_pairs) - mean**2  # over both pixels of every pair
        correlation = np.where(variance > 1e-9, (products / n_pairs - mean**2) / variance, np.nan)
        return {
            "texture_contrast": differences / n_pairs,
            "texture_correlation": correlation,
            "texture_homogeneity": inverse / n_pairs,
            "texture_asm": _sum_of_squares(counts) / n_pairs**2,
        }


def _cells(nuclei: Pixels, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, int]:
    """Copy each nucleus to a box of its own: cell (M,) of each pixel, and the number of cells in a row of any box.

    Cells are numbered through all boxes. A box has a margin to the right and below, so that no pixel of a nucleus is
    adjacent to another nucleus.
    """
    known = np.flatnonzero(nuclei.n)
    if not len(known):
        return np.zeros(0, int), 1
    first, last = nuclei.start[known], nuclei.start[known + 1] - 1
    left, right = np.minimum.reduceat(x, first), np.maximum.reduceat(x, first)
    stride = int((right - left).max()) + 2
    n_rows = y[last] - y[first] + 2
    shift = (np.cumsum(n_rows) - n_rows - y[first]) * stride - left
    return np.repeat(shift, nuclei.n[known]) + y * stride + x, stride


def _sum_of_squares(counts: np.ndarray) -> np.ndarray:
    """(n,) sums of squares of symmetric matrices, whose entries off the diagonal are half those of ``counts``."""
    flat = counts.reshape(len(counts), -1)
    whole, on_diagonal = (np.einsum("nk,nk->n", part, part) for part in (flat, counts[:, 0]))
    return (whole + on_diagonal) / 2


def _clumped_fraction(nuclei: Pixels, values: np.ndarray) -> np.ndarray:
    mean, sd = mean_and_sd(nuclei, values)
    dense, total = values > np.repeat(mean + sd, nuclei.n), nuclei.sum(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total > 0, nuclei.sum(values * dense) / total, np.nan)
