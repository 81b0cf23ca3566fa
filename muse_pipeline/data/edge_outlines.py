"""Outlines put on the edge that they run along: the best closed path through a polar picture of each nucleus."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from muse_pipeline.nuclei.rays import ray_directions

STEP_UM = 0.25  # between samples along a ray
REACH_UM = 12.0
WIDTH_UM = 0.75  # what is darker inside than outside is compared over so much on either side
LEAST_UM = 1.0
LOYALTY = 0.7  # cost of a radius that differs by all of itself, in units of the strongest darkness
INWARD = 4.0  # times as much where it shrinks: the rim of a pale nucleus has an inner edge too
JUMP, BEND = 4, 0.02  # samples that neighbouring rays may differ by, and what each costs
BLOCK = 512  # nuclei at a time: 30 MB


def follow_edges(amount: np.ndarray, xy: np.ndarray, rays: np.ndarray, mpp: float) -> np.ndarray:
    """Move outlines to where it gets lighter outwards, not far from where they are.

    Of all closed paths around a centre (dynamic programming over rays) the one that adds up the most of the step from
    dark to light and the least of the squared relative distance from the outline that was there.

    Args:
        amount: (h, w) how dark it is; about 1 in the darkest nuclei.
        xy: (N, 2) centres.
        rays: (N, R) um, finite.
        mpp: um per pixel.

    Returns:
        (N, R) float32 um.
    """
    starts = range(0, len(xy), BLOCK)
    moved = [_follow(amount, xy[i : i + BLOCK], rays[i : i + BLOCK], mpp) for i in starts]
    return np.concatenate(moved) if moved else np.zeros_like(rays, np.float32)


def _follow(amount: np.ndarray, xy: np.ndarray, rays: np.ndarray, mpp: float) -> np.ndarray:
    radii = np.arange(1, round(REACH_UM / STEP_UM) + 1) * STEP_UM  # (S,)
    directions = ray_directions(rays.shape[1])
    at = xy[:, None, None] + directions[:, None] * (radii / mpp)[:, None]  # (N, R, S, 2)
    dark = ndimage.map_coordinates(amount, [at[..., 1] - 0.5, at[..., 0] - 0.5], order=1, mode="nearest")
    width = round(WIDTH_UM / STEP_UM)
    sums = np.cumsum(np.pad(dark, ((0, 0), (0, 0), (width + 1, width)), mode="edge"), axis=2)
    inside = sums[..., width : width + len(radii)] - sums[..., : len(radii)]
    outside = sums[..., 2 * width : 2 * width + len(radii)] - sums[..., width : width + len(radii)]
    change = (radii - rays[..., None]) / np.maximum(rays, 2 * LEAST_UM)[..., None]
    cost = LOYALTY * np.where(change < 0, INWARD, 1) * change**2 - (inside - outside) / width
    cost[..., radii < LEAST_UM] = np.inf
    return radii[_closed_paths(cost)].astype(np.float32)


def _closed_paths(cost: np.ndarray) -> np.ndarray:
    """The cheapest closed path (N, R) through costs (N, R, S): of two turns the middle one, whose ends have met."""
    n_rays, n_steps = cost.shape[1:]
    bends = BEND * np.abs(np.arange(-JUMP, JUMP + 1))[:, None, None]
    total, came_from = cost[:, 0], []
    for turn in range(1, 2 * n_rays):
        padded = np.pad(total, ((0, 0), (JUMP, JUMP)), constant_values=np.inf)
        before = bends + np.stack([padded[:, jump : jump + n_steps] for jump in range(2 * JUMP + 1)])
        best = before.argmin(0)
        came_from.append(best - JUMP)
        total = np.take_along_axis(before, best[None], 0)[0] + cost[:, turn % n_rays]
    path = [total.argmin(1)]
    for step in reversed(came_from):
        path.append(path[-1] + np.take_along_axis(step, path[-1][:, None], 1)[:, 0])
    turns = np.stack(path[::-1], 1)
    half = n_rays // 2
    return np.concatenate([turns[:, n_rays : n_rays + half], turns[:, half:n_rays]], 1)
