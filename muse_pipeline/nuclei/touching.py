"""Divide overlapping outlines along a straight line, so that touching nuclei share no pixel."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import shapely

from muse_pipeline.nuclei.nms import close_pairs
from muse_pipeline.nuclei.rays import ray_directions, rays_to_rings

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
