"""Snap outlines to edges of the stain: every ray moves to the radius at which the picture gets lighter outwards."""

from __future__ import annotations

import cv2
import numpy as np

from muse_pipeline.nuclei.rays import points_along_rays

STEP_UM = 0.25  # between the radii that are tried along a ray
LOYALTY = 1.0  # cost of the squared relative change of a ray, in units of a nucleus' own edge
FAINTEST = 5.0  # grey levels of 255 by which an edge is lighter outside than inside; a fainter one counts for less
SMOOTHING = np.array([1, 8, 28, 56, 70, 56, 28, 8, 1], np.float32) / 256  # of rays: edges are ragged, nuclei are not
STAYING = 0.05  # weight of the ray as it was, beside 1 for an edge as clear as the nucleus' own
LEAST_UM = 1.0  # no ray becomes shorter
_BLOCK = 128  # nuclei at a time, whose samples fit into a core's cache


def snap_to_edges(light: np.ndarray, xy: np.ndarray, rays: np.ndarray, mpp: float, reach_um: float) -> np.ndarray:
    """Outlines on the clearest edge within reach; outlines without an edge stay.

    Every ray has a length within reach at which the picture gets lighter outwards by most. It changes by the mean of
    the changes that it and its neighbours need, weighted by the squares of their edges.

    Args:
        light: (h, w) uint8 picture in which nuclei are dark; the red channel of haematoxylin and eosin.
        xy: (N, 2) centres in its pixels.
        rays: (N, R) float32 um.
        mpp: um per pixel.
        reach_um: largest change of a ray's length.

    Returns:
        (N, R) float32 um.
    """
    blocks = (slice(start, start + _BLOCK) for start in range(0, len(xy), _BLOCK))
    parts = [_snap(light, xy[block], rays[block], mpp, round(reach_um / STEP_UM)) for block in blocks]
    return np.concatenate(parts) if parts else rays


def _snap(light: np.ndarray, xy: np.ndarray, rays: np.ndarray, mpp: float, n: int) -> np.ndarray:
    """``snap_to_edges`` with a reach of ``n`` steps."""
    change = np.arange(-n, n + 1, dtype=np.float32) * np.float32(STEP_UM)  # (S,)
    edge = _edges(light, xy, rays, mpp, n)
    own = np.maximum(edge.max(0).mean(1), FAINTEST)
    edge = np.clip(edge / own[:, None], -1, 1)
    cost = np.float32(LOYALTY) * (change[:, None, None] / np.maximum(rays, 2 * LEAST_UM)) ** 2
    best = (edge - cost).argmax(0)  # (N, R)
    weight = np.maximum(np.take_along_axis(edge, best[None], 0)[0], 0) ** 2
    pull, total = (_smooth(part) for part in (weight * change[best], weight))
    moved = rays + pull / (total + np.float32(STAYING))
    return np.maximum(moved, np.minimum(rays, np.float32(LEAST_UM)))


def _edges(light: np.ndarray, xy: np.ndarray, rays: np.ndarray, mpp: float, n: int) -> np.ndarray:
    """(2 n + 1, N, R) increase in grey level at radii from ``n`` steps before the end of a ray.

    Either side is the mean of two samples, over 0.5 um.
    """
    offsets = (np.arange(-n - 2, n + 2, dtype=np.float32) + np.float32(0.5)) * np.float32(STEP_UM)
    along = np.maximum(rays + offsets[:, None, None], 0)  # (samples, N, R) um
    levels = cv2.remap(
        light, *points_along_rays(xy, along, mpp), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    ).astype(np.float32)
    pairs = levels[1:] + levels[:-1]
    return ((pairs[2:] - pairs[:-2]) / 2).reshape(2 * n + 1, *rays.shape)


def _smooth(values: np.ndarray) -> np.ndarray:
    """(N, R) means of neighbouring rays; without BLAS, whose sums depend on the number of nuclei."""
    half, n_rays = len(SMOOTHING) // 2, values.shape[1]
    around = np.take(values, np.arange(-half, n_rays + half), axis=1, mode="wrap")
    starts = range(2 * half, -1, -1)  # this order of the sum decides its last digits
    return sum(share * around[:, start : start + n_rays] for share, start in zip(SMOOTHING, starts, strict=True))
