"""Pairs of close nuclei, and the suppression of nuclei that are found twice."""

from __future__ import annotations

import numpy as np
import shapely

from muse_pipeline.nuclei.rays import rays_to_rings
from muse_pipeline.nuclei.table import Nuclei

SLACK = 1 + 1e-9  # two positions a radius apart must not be two cells apart by rounding


def close_pairs(xy: np.ndarray, radius: float) -> np.ndarray:
    """Pairs (P, 2), i < j, of positions (N, 2) at most ``radius`` apart, in no particular order.

    Positions are sorted into cells as wide as the radius; all close neighbours lie in the same or an adjacent cell.
    (SciPy has a tree for this, but loading it takes as long as stitching 5 mm2.)
    """
    if len(xy) < 2:
        return np.zeros((0, 2), int)
    column, row = np.floor((xy - xy.min(axis=0)) / (radius * SLACK)).astype(np.int64).T
    n_columns = column.max() + 2  # one that stays empty, so that no cell is beside one at the other end
    cell = row * n_columns + column
    order = np.argsort(cell, kind="stable")
    cell = cell[order]
    here = np.arange(len(cell))
    # To be compared with each position: those after it in its own cell and the next, and three cells of the next row.
    start = np.concatenate([here + 1, np.searchsorted(cell, cell + n_columns - 1)])
    stop = np.searchsorted(cell, np.concatenate([cell + 1, cell + n_columns + 1]), side="right")
    n_others = stop - start
    first = np.repeat(np.tile(here, 2), n_others)
    second = np.arange(len(first)) + np.repeat(start - (np.cumsum(n_others) - n_others), n_others)
    x, y = np.ascontiguousarray(xy[order].T)
    near = (x[first] - x[second]) ** 2 + (y[first] - y[second]) ** 2 <= radius**2
    return np.sort(order[np.stack([first[near], second[near]], axis=1)], axis=1)


SAME_SHARE = 0.4  # of the smaller outline; see docs/results.md
SANE_UM = 0.01, 1000.0  # rays may be 0, negative or NaN, of which GEOS makes no polygon


def suppress_overlaps(nuclei: Nuclei, mpp: float) -> Nuclei:
    """Keep the higher-scored of two outlines that share more than ``SAME_SHARE`` of the smaller one.

    Greedy by score, as in StarDist (Schmidt et al., MICCAI 2018): dropped nuclei suppress nothing.

    Args:
        nuclei: N nuclei of one window, by descending score.
        mpp: um per pixel of their frame.
    """
    if not nuclei.rays.size:
        return nuclei
    better, lesser = _overlapping_pairs(nuclei.xy * mpp, np.nan_to_num(nuclei.rays).clip(*SANE_UM))
    kept = np.ones(len(nuclei), bool)
    for one, other in zip(better, lesser, strict=True):
        if kept[one]:
            kept[other] = False
    return nuclei if kept.all() else nuclei[kept]


def _overlapping_pairs(xy_um: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (P,), (P,) of overlapping nuclei, the lower number first, in ascending order of the first number."""
    pairs = close_pairs(xy_um, 2 * float(rays.max()))
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    first, second = pairs.T
    x, y = (xy_um[second] - xy_um[first]).T
    turn = np.arctan2(y, x) / (2 * np.pi)  # of a whole one
    n_rays = rays.shape[1]
    ahead, back = (np.rint((turn + way) * n_rays).astype(int) % n_rays for way in (0, 0.5))
    meet = rays[first, ahead] + rays[second, back] > np.hypot(x, y)  # of few pairs the areas are worth computing
    first, second = first[meet], second[meet]
    rings = rays_to_rings(xy_um, rays, (1, 1))
    one, other = shapely.polygons(rings[first]), shapely.polygons(rings[second])
    shared = shapely.area(shapely.intersection(one, other))
    same = shared > SAME_SHARE * np.minimum(shapely.area(one), shapely.area(other))
    return first[same], second[same]
