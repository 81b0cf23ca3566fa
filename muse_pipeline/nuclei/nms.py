"""Pairs of close nuclei: duplicates are suppressed, overlaps are divided."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import shapely

from muse_pipeline.nuclei.rays import ray_directions, rays_to_rings
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


REACH_UM = 32.0  # nuclei whose centres are further apart are left as they are
MIDDLE = 0.25, 0.75  # of the way between two centres: where a line across it lies


class Cuts(NamedTuple):
    """Straight lines that divide pairs of nuclei.

    Attributes:
        pair: (P, 2) indices of the two nuclei on either side of each line.
        normal: (P, 2) normal of the line, of any length, from the first nucleus to the second.
        point: (P, 2) point on the line, in um.
    """

    pair: np.ndarray
    normal: np.ndarray
    point: np.ndarray


def cut_apart(xy_um: np.ndarray, rays: np.ndarray, others_um: np.ndarray, others_rays: np.ndarray) -> np.ndarray:
    """Shorten rays that end in another nucleus.

    Two nuclei are divided by the line through both points at which their outlines cross; if there are none, or if one
    of the centres is beyond the line, by one at right angles to the line between the centres. Lines depend on two
    nuclei alone, so the result does not depend on the other nuclei of the call.

    Args:
        xy_um: (N, 2) centres.
        rays: (N, R) um.
        others_um: (M, 2) centres of nuclei that limit these and are not cut themselves.
        others_rays: (M, R) um.

    Returns:
        (N, R) float32: ``rays`` itself if no outlines overlap.
    """
    xy, all_rays = np.concatenate([xy_um, others_um]), np.concatenate([rays, others_rays])
    pairs = _overlapping(xy, all_rays, len(xy_um))
    if not len(pairs):
        return rays
    cuts = find_cuts(xy, all_rays, pairs)
    directions, shortened = ray_directions(rays.shape[1]), rays.copy()
    for side, normal in ((0, cuts.normal), (1, -cuts.normal)):
        nucleus = cuts.pair[:, side]
        room = _dot(normal, cuts.point - xy[nucleus])[:, None]
        towards = normal[:, :1] * directions[:, 0] + normal[:, 1:] * directions[:, 1]
        limit = np.divide(room, towards, out=np.full(towards.shape, np.inf), where=towards > 0)
        own = nucleus < len(rays)
        np.minimum.at(shortened, nucleus[own], limit[own].astype(np.float32))
    return shortened


def _overlapping(xy: np.ndarray, rays: np.ndarray, n_own: int) -> np.ndarray:
    """Pairs (P, 2) that may overlap, one of the first ``n_own`` in each; the upper nucleus of a pair is its first."""
    radius = np.fmax.reduce(rays, 1, initial=0)  # of a faulty model some are NaN
    pairs = close_pairs(xy, min(2 * float(radius.max(initial=0)), REACH_UM))
    pairs = pairs[pairs[:, 0] < n_own]
    pairs = pairs[_distance(xy, pairs) < radius[pairs].sum(1)]
    first, second = pairs.T
    pairs = np.where(_precedes(xy[first], xy[second])[:, None], pairs, pairs[:, ::-1])
    apart = xy[pairs[:, 1]] - xy[pairs[:, 0]]
    reach = [_extent(rays[pairs[:, side]], way) for side, way in ((0, apart), (1, -apart))]
    return pairs[sum(reach) > _dot(apart, apart)]  # else a line at right angles to the one between them is free


def find_cuts(xy: np.ndarray, rays: np.ndarray, pairs: np.ndarray) -> Cuts:
    """Dividing lines of those of the pairs (P, 2) whose outlines cross."""
    used, index = np.unique(pairs, return_inverse=True)
    rings = shapely.linearrings(rays_to_rings(xy[used], rays[used], (1, 1)))
    one, other = rings[index.reshape(pairs.shape)].T
    crossings, pair = shapely.get_coordinates(shapely.intersection(one, other), return_index=True)
    axis = xy[pairs[:, 1]] - xy[pairs[:, 0]]
    along = axis[pair, 0] * crossings[:, 1] - axis[pair, 1] * crossings[:, 0]
    order = np.lexsort((along, pair))
    pair, crossings = pair[order], crossings[order]
    crossed, begin = np.unique(pair, return_index=True)
    low, high = crossings[begin], crossings[np.append(begin[1:], len(pair))[: len(begin)] - 1]
    pairs, axis, middle = pairs[crossed], axis[crossed], (low + high) / 2
    normal = np.stack([high[:, 1] - low[:, 1], low[:, 0] - high[:, 0]], 1)
    start, end = xy[pairs[:, 0]], xy[pairs[:, 1]]
    across = ~((_dot(normal, middle - start) > 0) & (_dot(normal, end - middle) > 0))
    way = (_dot(axis, middle - start) / _dot(axis, axis)).clip(*MIDDLE)
    normal = np.where(across[:, None], axis, normal)
    return Cuts(pairs, normal, np.where(across[:, None], start + way[:, None] * axis, middle))


def _extent(rays: np.ndarray, way: np.ndarray) -> np.ndarray:
    """(P,) extent of outlines (P, R) in the directions ``way`` (P, 2), times the length of ``way``."""
    directions = ray_directions(rays.shape[1])
    return (rays * (way[:, :1] * directions[:, 0] + way[:, 1:] * directions[:, 1])).max(1, initial=0)


def _precedes(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(P,) bool: True if positions (P, 2) come before others, row by row."""
    return (one[:, 1] < other[:, 1]) | ((one[:, 1] == other[:, 1]) & (one[:, 0] < other[:, 0]))


def _distance(xy: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    return np.sqrt(_dot(*2 * [xy[pairs[:, 1]] - xy[pairs[:, 0]]]))


def _dot(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return one[:, 0] * other[:, 0] + one[:, 1] * other[:, 1]
