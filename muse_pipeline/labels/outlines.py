"""Outlines for nuclei labelled by points: seeded watersheds on haematoxylin, moved to the clearest
edge nearby.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy import ndarray
from scipy import ndimage
from scipy.spatial import cKDTree

from muse_pipeline.nuclei.masks import march_rays
from muse_pipeline.nuclei.rays import ray_directions
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.tissue.stain import DENSITY, ROUNDED_TEXTBOOK, MacenkoFit

MAX_RADIUS_UM = 12.0
# with these, outlines grown from NuCLS centroids are 2 % larger than NuCLS masks
BLUR_UM, OTSU_SHARE = 0.35, 0.8
SMOOTHING = np.array([1, 2, 1]) / 4
PLAUSIBLE_AREA_UM2 = (8.0, 250.0)


def outline_points(pixels: ndarray, nuclei: Nuclei, stain: MacenkoFit | None, mpp: float) -> Nuclei:
    """Outline nuclei around points in pixels of a picture: a watershed region or a circle, moved to
    the clearest edge.

    Rays are NaN if there is no clear edge, or if the outline is too small or too large for a
    nucleus. Without ``stain``, textbook haematoxylin is used.
    """
    if not len(nuclei):
        return nuclei
    haematoxylin = ROUNDED_TEXTBOOK[0] if stain is None else np.linalg.pinv(stain.stains)[:, 0]
    amount = np.maximum(DENSITY[pixels] @ np.array(haematoxylin, np.float32), 0)
    amount = ndimage.gaussian_filter(amount, BLUR_UM / mpp)
    amount /= max(np.percentile(amount, 99), 1e-6)
    regions = grow_regions(amount, nuclei.xy, mpp)
    grown = march_rays(regions, nuclei.xy, (mpp, mpp), nuclei.rays.shape[1])
    rays = follow_edges(amount, nuclei.xy, grown, mpp)
    rays = ndimage.convolve1d(rays, SMOOTHING, axis=1, mode="wrap")  # grown edges are ragged
    area_um2 = np.pi * (rays**2).mean(1)
    rays[(area_um2 < PLAUSIBLE_AREA_UM2[0]) | (area_um2 > PLAUSIBLE_AREA_UM2[1])] = np.nan
    return replace(nuclei, rays=rays)


def grow_regions(amount: ndarray, xy: ndarray, mpp: float) -> ndarray:
    """Seeded watershed: (h, w) int32, i + 1 in the region of centre i of ``xy`` (N, 2), 0 in the
    background; N > 0.

    ``amount`` (h, w) is the smoothed haematoxylin, about 1 in the darkest nuclei.
    """
    from skimage.filters import threshold_local, threshold_otsu
    from skimage.segmentation import watershed

    # The block is about 50 um wide, with an odd number of pixels as ``threshold_local`` requires.
    local = threshold_local(amount, 2 * round(25 / mpp) + 1, method="gaussian")
    dark = amount > np.maximum(local, OTSU_SHARE * threshold_otsu(amount))
    height, width = amount.shape
    seeds = np.zeros((height, width), np.int32)
    rows = np.floor(xy[:, 1]).astype(int).clip(0, height - 1)
    columns = np.floor(xy[:, 0]).astype(int).clip(0, width - 1)
    seeds[rows, columns] = np.arange(1, len(xy) + 1)
    near = ndimage.distance_transform_edt(seeds == 0)
    dark |= near <= 1.0 / mpp
    # The landscape combines darkness and distance, so regions meet at pale lines or, if there are
    # none, halfway.
    landscape = near * mpp / 4 - amount
    regions = watershed(landscape, seeds, mask=dark & (near <= MAX_RADIUS_UM / mpp))
    # An opening of the foreground removes thin bridges.
    radius = max(1, round(0.75 / mpp))
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return np.where(
        ndimage.binary_opening(regions > 0, x * x + y * y <= radius * radius), regions, 0
    )


STEP_UM = 0.25  # distance between samples along a ray
REACH_UM = 12.0
WIDTH_UM = 0.75  # width of the bands that are compared on either side of an edge
LEAST_UM = 1.0  # minimum length of a ray
# radii of circles that are tried in addition to the given outline; for pale, large nuclei
CIRCLES_UM = (4.5, 6.5)
# cost of a relative difference of 1 from the initial outline, in units of the nucleus' own edge
LOYALTY = 0.7
# how far people draw outside the steepest edge; with this offset, areas agree within 1 %
OUTWARD_UM = 0.125
# factor on ``LOYALTY`` if an outline shrinks: the rim of a pale nucleus has an inner edge too
INWARD = 4.0
CLEAR = 0.75  # minimum mean edge along an outline, in units of the nucleus' own edge
# added to the mean edge of the path that starts from the given outline, to prefer it to circles
TRUST = 0.2
CROWDED = 1.0  # cost of each um by which a ray exceeds ``PAST_HALF_WAY``
# longest ray without this cost, in half distances to a neighbour; > 1, as nuclei differ in size
PAST_HALF_WAY = 1.1
FAINTEST = 0.12  # lower limit of a nucleus' own edge; the darkest nuclei have a darkness of about 1
JUMP, BEND = 4, 0.02  # maximum difference between neighbouring rays, in samples; cost of one sample
NEIGHBOURS = 8
BLOCK = 512  # nuclei processed at a time, which takes 50 MB


def follow_edges(amount: ndarray, xy: ndarray, rays: ndarray, mpp: float) -> ndarray:
    """Move each outline to the clearest edge from dark to light near the given outline or near a
    circle.

    Dynamic programming over rays finds the closed path around a centre that best combines steep
    edges, in units of the nucleus' own edge (the median over its rays' steepest edges), with a
    small squared relative distance from the initial outline. In a pale nucleus, the path follows
    the rim, which is an edge all around, unlike grains inside.

    ``amount`` (h, w) is about 1 in the darkest nuclei. ``rays`` (N, R), um, are NaN for a nucleus
    without an outline; so are the returned ones for nuclei without a clear path, such as two nuclei
    at the same position ``xy`` (N, 2).
    """
    room = _room(xy * mpp, rays.shape[1])
    parts = (slice(start, start + BLOCK) for start in range(0, len(xy), BLOCK))
    return np.concatenate(
        [_follow(amount, xy[part], rays[part], room[part], mpp) for part in parts]
    )


def _room(xy_um: ndarray, n_rays: int) -> ndarray:
    """(N, R) um along every ray to the nearest perpendicular bisector between its nucleus and a
    neighbour.
    """
    n_near = min(NEIGHBOURS, len(xy_um) - 1)
    if n_near < 1:
        return np.full((len(xy_um), n_rays), np.inf)
    _, near = cKDTree(xy_um).query(xy_um, n_near + 1)
    towards = xy_um[near[:, 1:]] - xy_um[:, None]  # (N, K, 2)
    along = towards @ ray_directions(n_rays).T  # (N, K, R)
    squared = (towards**2).sum(2)[..., None]
    half_way = np.divide(squared, 2 * along, out=np.full_like(along, np.inf), where=along > 0)
    return np.where(squared == 0, 0, half_way).min(1)  # 0 for nuclei at the same position


def _follow(amount: ndarray, xy: ndarray, rays: ndarray, room: ndarray, mpp: float) -> ndarray:
    radii = (np.arange(round(REACH_UM / STEP_UM)) + 0.5) * STEP_UM  # (S,)
    edge = _edges(amount, xy, radii, rays.shape[1], mpp)
    past = np.maximum(radii - PAST_HALF_WAY * room[..., None], 0)  # (N, R, S)
    own = np.median(np.where(past > 0, 0, edge).max(2), axis=1).clip(min=FAINTEST)
    edge = (edge / own[:, None, None]).clip(-1, 1) - CROWDED * past
    tried = [
        np.nan_to_num(rays, nan=LEAST_UM),
        *(np.full_like(rays, radius) for radius in CIRCLES_UM),
    ]
    paths = np.stack([_best_path(edge, radii, outline) for outline in tried])  # (T, N, R)
    clear = np.take_along_axis(edge[None], paths[..., None], 3)[..., 0].mean(2)
    clear[0] = np.where(np.isnan(rays).any(1), -np.inf, clear[0] + TRUST)
    best = clear.argmax(0), np.arange(len(xy))
    moved = (radii[paths[best]] + OUTWARD_UM).astype(np.float32)
    moved[clear[best] < CLEAR] = np.nan
    return moved


def _edges(amount: ndarray, xy: ndarray, radii: ndarray, n_rays: int, mpp: float) -> ndarray:
    """(N, R, S): decrease in darkness along a ray at every radius; radii are halfway between
    samples.
    """
    samples = radii + STEP_UM / 2
    # (N, R, S, 2)
    at = xy[:, None, None] + ray_directions(n_rays)[:, None] * (samples / mpp)[:, None]
    dark = ndimage.map_coordinates(
        amount, [at[..., 1] - 0.5, at[..., 0] - 0.5], order=1, mode="nearest"
    )
    width = round(WIDTH_UM / STEP_UM)
    # The sums of the bands inside and outside every radius are differences of running sums.
    sums = np.cumsum(np.pad(dark, ((0, 0), (0, 0), (width + 1, width)), mode="edge"), axis=2)
    inside = sums[..., width : width + len(radii)] - sums[..., : len(radii)]
    outside = sums[..., 2 * width : 2 * width + len(radii)] - sums[..., width : width + len(radii)]
    is_there = (at > 0).all(-1) & (at < amount.shape[::-1]).all(-1)
    return np.where(is_there, (inside - outside) / width, 0)  # no edges beyond the picture's border


def _best_path(edge: ndarray, radii: ndarray, outline: ndarray) -> ndarray:
    """(N, R) indices into ``radii`` of the clearest closed path close to an ``outline`` (N, R) in
    um.
    """
    change = (radii - outline[..., None]) / np.maximum(outline, 2 * LEAST_UM)[..., None]
    cost = LOYALTY * np.where(change < 0, INWARD, 1) * change**2 - edge
    cost[..., radii < LEAST_UM] = np.inf
    return _closed_paths(cost)


def _closed_paths(cost: ndarray) -> ndarray:
    """Cheap closed paths (N, R): the middle turn of the cheapest path over two turns, far from its
    free ends.

    ``cost`` (N, R, S) is that of each radius on each ray. Radius indices of neighbouring rays
    differ by at most ``JUMP``, and a difference of 1 costs ``BEND``.
    """
    n_rays, n_steps = cost.shape[1:]
    bends = (BEND * np.abs(np.arange(-JUMP, JUMP + 1)))[:, None, None].astype(cost.dtype)
    total, came_from = cost[:, 0], []
    for turn in range(1, 2 * n_rays):
        padded = np.pad(total, ((0, 0), (JUMP, JUMP)), constant_values=np.inf)
        before = bends + np.stack(
            [padded[:, first : first + n_steps] for first in range(2 * JUMP + 1)]
        )
        best = before.argmin(0)
        came_from.append(best - JUMP)
        total = np.take_along_axis(before, best[None], 0)[0] + cost[:, turn % n_rays]
    path = [total.argmin(1)]
    for step in reversed(came_from):
        path.append(path[-1] + np.take_along_axis(step, path[-1][:, None], 1)[:, 0])
    turns = np.stack(path[::-1], 1)
    half = n_rays // 2
    return np.concatenate([turns[:, n_rays : n_rays + half], turns[:, half:n_rays]], 1)
