"""Outlines on the edge of what is stained: the closed path around a nucleus along which it gets lighter outwards."""

from __future__ import annotations

import cv2
import numpy as np

from muse_pipeline.nuclei.rays import ray_directions

STEP_UM = 0.25  # between the radii that are tried along a ray
WIDTH_UM = 0.75  # of the bands on either side of an edge that are compared
LEAST_UM = 1.0  # shortest ray
LOYALTY = 2.0  # cost of the squared relative change of a ray, in units of a nucleus' own edge
BEND = 0.05  # cost where a ray moves by a step more or less than the one beside it; no two differ by more
OUTWARD_UM = 0.125  # drawn outlines lie so far outside of the steepest edge (``labels.outlines``)
FAINTEST = 0.1  # edge, in optical density
CLEAR = 0.5  # share of its own edge along which an outline must lie, or it stays
BLUR_UM = 0.35
_BLOCK = 1024  # nuclei at a time
_ROWS = 16_384  # rays at a time: cv2 maps pictures of less than 32,768 rows


def snap_to_edges(amount: np.ndarray, xy: np.ndarray, rays: np.ndarray, mpp: float, reach_um: float) -> np.ndarray:
    """Outlines on the clearest closed edge within reach, by dynamic programming over rays; without one they stay.

    Args:
        amount: (h, w) float32 density of the stain of nuclei.
        xy: (N, 2) centres in its pixels.
        rays: (N, R) um.
        mpp: um per pixel.
        reach_um: how far a ray may become longer or shorter.

    Returns:
        (N, R) float32 um.
    """
    amount = cv2.GaussianBlur(np.asarray(amount, np.float32), (0, 0), BLUR_UM / mpp)
    blocks = (slice(start, start + _BLOCK) for start in range(0, len(xy), _BLOCK))
    parts = [_snap(amount, xy[block], rays[block], mpp, reach_um) for block in blocks]
    return np.concatenate(parts) if parts else np.zeros_like(rays, np.float32)


def _snap(amount: np.ndarray, xy: np.ndarray, rays: np.ndarray, mpp: float, reach_um: float) -> np.ndarray:
    rays = np.asarray(rays, np.float32)
    n = round(reach_um / STEP_UM)
    change = np.arange(-n, n + 1, dtype=np.float32) * np.float32(STEP_UM)  # (S,)
    edge = _edges(amount, xy, rays, mpp, n)
    own = np.maximum(np.median(edge.max(2), 1), FAINTEST)
    edge = np.clip(edge / own[:, None, None], -1, 1)
    relative = change / np.maximum(rays, 2 * LEAST_UM)[..., None]
    cost = np.float32(LOYALTY) * relative**2 - edge
    cost[rays[..., None] + change < LEAST_UM] = np.inf
    cost[..., n][rays < LEAST_UM] = 0  # it may stay
    path = closed_paths(cost, jump=1, bend=BEND)
    moved = rays + change[path] + np.float32(OUTWARD_UM)
    moved = (np.roll(moved, 1, 1) + 2 * moved + np.roll(moved, -1, 1)) / 4  # edges are ragged, nuclei are not
    clear = np.take_along_axis(edge, path[..., None], 2)[..., 0].mean(1) > CLEAR
    return np.where(clear[:, None], moved, rays)


def _edges(amount: np.ndarray, xy: np.ndarray, rays: np.ndarray, mpp: float, n: int) -> np.ndarray:
    """(N, R, 2 n + 1): how much darker a ray is before than after each radius, from ``n`` steps before its end."""
    width = round(WIDTH_UM / STEP_UM)
    offsets = (np.arange(-n - width, n + width, dtype=np.float32) + 0.5) * np.float32(STEP_UM)
    along = np.maximum(rays[..., None] + offsets, 0) / np.float32(mpp)  # (N, R, samples) px
    directions = ray_directions(rays.shape[1]).astype(np.float32)
    columns, rows = (
        (along * directions[:, axis, None] + (xy[:, axis] - 0.5).astype(np.float32)[:, None, None]).reshape(
            -1, len(offsets)
        )
        for axis in (0, 1)
    )
    parts = (slice(start, start + _ROWS) for start in range(0, len(rows), _ROWS))
    dark = np.concatenate(
        [cv2.remap(amount, columns[one], rows[one], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for one in parts]
    ).reshape(along.shape)
    sums = np.cumsum(np.pad(dark, ((0, 0), (0, 0), (1, 0))), axis=2, dtype=np.float32)
    before, at, after = (sums[..., first : first + 2 * n + 1] for first in (0, width, 2 * width))
    return (2 * at - before - after) / np.float32(width)


def closed_paths(cost: np.ndarray, jump: int, bend: float) -> np.ndarray:
    """The cheapest closed path (N, R) through costs (N, R, S): of two turns the middle one, whose ends have met.

    Args:
        cost: of each radius on each ray.
        jump: steps that neighbouring rays may differ by.
        bend: cost of each.
    """
    n_rays, n_steps = cost.shape[1:]
    bends = (bend * np.abs(np.arange(-jump, jump + 1)))[:, None, None].astype(cost.dtype)
    total, came_from = cost[:, 0], []
    for turn in range(1, 2 * n_rays):
        padded = np.pad(total, ((0, 0), (jump, jump)), constant_values=np.inf)
        before = bends + np.stack([padded[:, first : first + n_steps] for first in range(2 * jump + 1)])
        best = before.argmin(0)
        came_from.append(best - jump)
        total = np.take_along_axis(before, best[None], 0)[0] + cost[:, turn % n_rays]
    path = [total.argmin(1)]
    for step in reversed(came_from):
        path.append(path[-1] + np.take_along_axis(step, path[-1][:, None], 1)[:, 0])
    turns = np.stack(path[::-1], 1)
    half = n_rays // 2
    return np.concatenate([turns[:, n_rays : n_rays + half], turns[:, half:n_rays]], 1)
