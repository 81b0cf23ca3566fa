"""Texture of haematoxylin within nuclei: gradient, histogram and Haralick's features of pairs of pixels.

Haralick, Shanmugam & Dinstein, "Textural features for image classification", IEEE Trans Syst Man Cybern 1973. A nucleus
has one symmetric matrix: of the pairs of adjacent pixels in all four directions.
"""

from __future__ import annotations

import numpy as np

from muse_pipeline.features.densities import mean_and_sd
from muse_pipeline.features.zones import RIM, ZonePixels

STEP, N_LEVELS = 0.05, 32  # of OD; densities above 1.6 are of the last level, negative ones of the first


def measure_texture(zones: ZonePixels, density: np.ndarray, mpp: float) -> dict[str, np.ndarray]:
    """The features of the group *texture*, (N,) each; NaN where they are not defined.

    Args:
        zones: of the nuclei.
        density: (h, w) haematoxylin of the image; every nucleus lies at least one pixel from its edges.
        mpp: um per pixel.
    """
    zones = zones.where(zones.zone >= RIM)
    values, width = density.ravel(), density.shape[1]
    here, right, left, below, above = (values.take(zones.place + step) for step in (0, 1, -1, width, -width))
    level = (here * np.float32(1 / STEP)).astype(np.int32).clip(0, N_LEVELS - 1)
    everywhere = np.ones(len(here), bool)
    gradient = np.sqrt((right - left) ** 2 + (below - above) ** 2).astype(float) / (2 * mpp)
    gradient_mean, gradient_sd = mean_and_sd(zones, gradient, everywhere)
    return {
        "texture_gradient_mean": gradient_mean,
        "texture_gradient_sd": gradient_sd,
        "texture_entropy": _entropy(zones, level),
        **_haralick(zones, level),
        "texture_clumped_fraction": _clumped_fraction(zones, here.astype(float), everywhere),
    }


def _entropy(zones: ZonePixels, level: np.ndarray) -> np.ndarray:
    n = len(zones.n_pixels)
    counts = np.bincount(zones.owner * N_LEVELS + level, minlength=n * N_LEVELS).reshape(n, N_LEVELS)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = counts / zones.n_pixels[:, None]
        return np.where(zones.n_pixels > 0, -np.nansum(share * np.log2(share), 1), np.nan)


def _haralick(zones: ZonePixels, level: np.ndarray) -> dict[str, np.ndarray]:
    """Sums over all pairs of adjacent pixels of a nucleus; whole numbers, so that their order does not matter."""
    n = len(zones.n_pixels)
    level_of_cell = np.full(zones.width.sum(), -1, np.int32)
    level_of_cell[zones.cell] = level
    below, row_of_matrix = zones.cell + zones.width.take(zones.row), zones.owner * N_LEVELS
    totals = np.zeros((6, n))
    counts = np.zeros(n * N_LEVELS**2, np.int64)
    inverse_of = 1 / (1 + np.arange(N_LEVELS) ** 2)
    for cell in (zones.cell + 1, below - 1, below, below + 1):
        other = level_of_cell.take(cell)
        known = other >= 0
        first, second = level * known, other * known
        apart = np.abs(first - second)
        of_pair = known, first + second, first * first + second * second, first * second, apart * apart
        totals += [zones.sum(values) for values in (*of_pair, inverse_of.take(apart) * known)]
        place = (row_of_matrix + np.maximum(first, second)) * N_LEVELS + np.minimum(first, second)
        counts += np.bincount(place[known], minlength=len(counts))
    n_pairs, sums, squares, products, differences, inverse = totals
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = sums / (2 * n_pairs)
        variance = squares / (2 * n_pairs) - mean**2  # of both pixels of a pair: the matrix is symmetric
        correlation = np.where(variance > 1e-9, (products / n_pairs - mean**2) / variance, np.nan)
        return {
            "texture_contrast": differences / n_pairs,
            "texture_correlation": correlation,
            "texture_homogeneity": inverse / n_pairs,
            "texture_asm": _sum_of_squares(counts.reshape(n, N_LEVELS, N_LEVELS)) / n_pairs**2,
        }


def _sum_of_squares(counts: np.ndarray) -> np.ndarray:
    """(n,) of the symmetric matrices whose lower triangles have the counts (n, L, L) of both."""
    diagonal = np.einsum("nii->ni", counts)
    whole, on_diagonal = (np.einsum("nk,nk->n", part, part) for part in (counts.reshape(len(counts), -1), diagonal))
    return (whole + on_diagonal) / 2


def _clumped_fraction(zones: ZonePixels, values: np.ndarray, everywhere: np.ndarray) -> np.ndarray:
    mean, sd = mean_and_sd(zones, values, everywhere)
    dense, total = values > np.repeat(mean + sd, zones.n_pixels), zones.sum(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total > 0, zones.sum(values * dense) / total, np.nan)
