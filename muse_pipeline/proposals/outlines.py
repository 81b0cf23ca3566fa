"""Star-convex outlines around given centres: where a nucleus ends along every ray.

Along a ray the outline is worth what lies inside it: the sum of (density - threshold). The closed outline of greatest
worth whose neighbouring rays differ by one step at most is found by dynamic programming; it follows a blurred edge,
crosses a pale centre and does not leak through a gap. Neighbours part at the power diagram of their centres and radii.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy.spatial import cKDTree

from muse_pipeline.nuclei.rays import ray_directions

STEP_UM = 0.35
MIN_RADIUS_UM = 1.0
NEIGHBOUR_UM = 20.0
CORE_UM, AROUND_UM = 2.5, 5.0  # what is certainly a nucleus' own, and where its surroundings begin
PIECE = 1024  # nuclei at a time: (1024, 32, 30) floats
TRESPASS = 10.0  # price per step into a neighbour's territory


def trace_outlines(
    density: np.ndarray,
    mpp: float,
    xy: np.ndarray,
    radius_um: np.ndarray,
    least_density: float,
    n_rays: int,
    max_radius_um: float,
) -> np.ndarray:
    """Rays (N, n_rays) float32 in um around centres ``xy`` (N, 2) px, in (h, w) float32 ``density``.

    Args:
        density: of stain, smoothed by a little.
        mpp: um per pixel.
        xy: the centres.
        radius_um: (N,) rough radii, for the territories.
        least_density: no outline reaches into less. Where the surroundings are dense themselves, the outline is halfway
            between the nucleus and them.
        n_rays: number of rays.
        max_radius_um: no ray is longer.
    """
    reach_um = np.minimum(territories(xy * mpp, radius_um, n_rays), max_radius_um)
    steps_um = np.arange(1, int(max_radius_um / STEP_UM) + 1) * STEP_UM
    rays = np.zeros((len(xy), n_rays), np.float32)
    for start in range(0, len(xy), PIECE):
        piece = slice(start, start + PIECE)
        profiles = _profiles(density, mpp, xy[piece], steps_um, n_rays)
        threshold = np.maximum(_halfway(profiles, steps_um), least_density)
        worth = np.cumsum(profiles - threshold[:, None, None], axis=2)
        worth -= TRESPASS * np.maximum(steps_um - reach_um[piece, :, None], 0)
        best = steps_um[_best_closed_path(worth)]
        rays[piece] = np.clip(_smooth_around(best), MIN_RADIUS_UM, np.maximum(reach_um[piece], MIN_RADIUS_UM))
    return rays


def territories(xy_um: np.ndarray, radius_um: np.ndarray, n_rays: int) -> np.ndarray:
    """How far (N, n_rays), in um, each ray goes until the power diagram of centres (N, 2) and radii gives it away."""
    reach = np.full((len(xy_um), n_rays), np.inf)
    if len(xy_um) < 2:
        return reach
    pairs = cKDTree(xy_um).query_pairs(NEIGHBOUR_UM, output_type="ndarray")
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    if not len(pairs):
        return reach
    own, other = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))].T
    apart = xy_um[other] - xy_um[own]
    border = ((apart**2).sum(1) + radius_um[own] ** 2 - radius_um[other] ** 2) / 2
    towards = apart @ ray_directions(n_rays).T
    distance = np.where(towards > 1e-6, border[:, None] / np.maximum(towards, 1e-6), np.inf)
    first = np.flatnonzero(np.diff(own, prepend=-1))
    reach[own[first]] = np.minimum.reduceat(distance, first, axis=0)
    return reach


def _profiles(density: np.ndarray, mpp: float, xy: np.ndarray, steps_um: np.ndarray, n_rays: int) -> np.ndarray:
    """Density (N, n_rays, T) halfway into each step of each ray."""
    offsets = ray_directions(n_rays)[:, None] * (steps_um - STEP_UM / 2)[:, None] / mpp  # (n_rays, T, 2)
    at = (xy[:, None] - 0.5 + offsets.reshape(1, -1, 2)).astype(np.float32)
    sampled = cv2.remap(density, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return sampled.reshape(len(xy), n_rays, len(steps_um))


def _halfway(profiles: np.ndarray, steps_um: np.ndarray) -> np.ndarray:
    """Density (N,) halfway between the dark part of each core and the pale part of what lies around it.

    Quartiles rather than means: a core may be vesicular, and the surroundings hold other nuclei.
    """
    n = len(profiles)
    core = np.percentile(profiles[:, :, steps_um <= CORE_UM].reshape(n, -1), 75, axis=1)
    around = np.percentile(profiles[:, :, steps_um > AROUND_UM].reshape(n, -1), 25, axis=1)
    return ((core + around) / 2).astype(np.float32)


def _best_closed_path(worth: np.ndarray) -> np.ndarray:
    """Step index (N, R) of the path of greatest ``worth`` (N, R, T) that changes by one step at most from ray to ray.

    Half a turn is walked on either side of the full one, so that its two ends meet.
    """
    n, n_rays, n_steps = worth.shape
    lead = n_rays // 2
    order = np.arange(-lead, n_rays + lead) % n_rays
    total = worth[:, order[0]]
    moves = np.empty((len(order), n, n_steps), np.int8)
    low = np.full((n, 1), -np.inf, worth.dtype)
    for i, ray in enumerate(order[1:], 1):
        inner, outer = np.hstack([low, total[:, :-1]]), np.hstack([total[:, 1:], low])
        move = np.where(inner > total, -1, 0).astype(np.int8)
        best = np.maximum(inner, total)
        move[outer > best] = 1
        moves[i] = move
        total = np.maximum(best, outer) + worth[:, ray]
    path = np.empty((n, n_rays), int)
    at, rows = total.argmax(1), np.arange(n)
    for i in range(len(order) - 1, lead - 1, -1):
        if i < lead + n_rays:
            path[:, order[i]] = at
        at = at + moves[i][rows, at]
    return path


def _smooth_around(rays: np.ndarray) -> np.ndarray:
    """Each ray (N, R) averaged with its two neighbours, weights 1 2 1."""
    return (np.roll(rays, 1, 1) + 2 * rays + np.roll(rays, -1, 1)) / 4
