"""Whole cells: nuclei grown by a few um, ending halfway between neighbours and at the edge of the tissue.

A cell has the centre and the number of rays of its nucleus. It grows at right angles to the nucleus' outline, and ends
where a neighbour that grows at the same speed has arrived.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import cv2
import numpy as np

from muse_pipeline.core.types import SlideInfo
from muse_pipeline.features.zones import count_from
from muse_pipeline.nuclei.pairs import close_pairs
from muse_pipeline.nuclei.parquet import CELL_RAYS
from muse_pipeline.nuclei.rays import clip_rays, ray_directions
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.tissue.mask import KEEP_UM, KeptArea

_RAYS_AT_ONCE = 1 << 14  # OpenCV looks up no more than 32,767
_LEAST = np.float32(1e-6)


def find_cells(nuclei: Nuclei, others: Nuclei, expand_um: float, info: SlideInfo, kept: KeptArea) -> np.ndarray:
    """The rays (N, R) float32, in um, of the cells of nuclei (frame: level0).

    Args:
        nuclei: nuclei whose outlines do not overlap.
        others: all other nuclei within ``2 * expand_um`` of the outlines of these.
        expand_um: distance by which a nucleus grows without obstacles.
        info: header of the slide, within which cells end.
        kept: tissue of the slide.
    """
    xy_um = np.concatenate([nuclei.xy, others.xy]) * np.asarray(info.mpp)
    rays = np.concatenate([nuclei.rays, others.rays])
    grown = grow(rays, expand_um)
    cells = _meet(xy_um, rays, grown, len(nuclei))
    cells = _stop_at_edge(nuclei.xy, nuclei.rays, cells, info, kept)
    for box in ((0, 0, *info.size_px), info.scanned_box):
        cells = clip_rays(nuclei.xy, cells, info.mpp, box)
    return np.maximum(cells, nuclei.rays)


def measure_area(cells: np.ndarray, shapes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The columns of cells that follow from their rays (N, R), and the rays.

    Args:
        cells: rays of the cells, in um.
        shapes: measures of their nuclei by ``nuclei.shape.measure_shapes``.
    """
    rays = cells.astype(float)
    area = (rays * np.roll(rays, 1, 1)).sum(1) * (np.sin(2 * np.pi / rays.shape[1]) / 2)
    return {CELL_RAYS: cells, "cell_area_um2": area, "nucleus_cell_ratio": shapes["area_um2"] / area}


def grow(rays: np.ndarray, distance_um: float) -> np.ndarray:
    """Rays (N, R) float32 of the outlines that are at a distance from those of ``rays`` (N, R), both in um.

    The grown outline surrounds circles of this radius around the vertices of the nucleus.
    """
    n_rays, distance = rays.shape[1], np.float32(distance_um)
    margin = n_rays // 4  # beyond a right angle no circle reaches a ray
    around = np.concatenate([rays[:, n_rays - margin :], rays, rays[:, :margin]], 1)
    grown = rays + distance
    with np.errstate(invalid="ignore"):  # of circles that lie beside a ray
        for step in range(1, margin + 1):
            angle = 2 * np.pi * step / n_rays
            across, along = (around * np.float32(part) for part in (np.sin(angle), np.cos(angle)))
            reach = along + np.sqrt(distance * distance - across * across)
            for first in (margin - step, margin + step):
                np.fmax(grown, reach[:, first : first + n_rays], out=grown)
    return grown


def _meet(xy: np.ndarray, rays: np.ndarray, grown: np.ndarray, n_own: int) -> np.ndarray:
    """The rays ``grown`` of the first ``n_own`` nuclei, shortened to the points where growing neighbours meet."""
    n_rays = rays.shape[1]
    cells, outlines = grown[:n_own].copy(), np.stack([rays, grown - rays], -1)
    pairs = _find_facing(xy, grown, n_own)
    ray, pair = count_from(pairs.first, pairs.n), np.repeat(np.arange(len(pairs.n)), pairs.n)
    for chunk in (slice(first, first + _RAYS_AT_ONCE) for first in range(0, len(ray), _RAYS_AT_ONCE)):
        one, other, distance, position = (each.take(pair[chunk]) for each in pairs[:4])
        turn = (ray[chunk].astype(np.float32) - position) * np.float32(2 * np.pi / n_rays)
        own = one * n_rays + ray[chunk] % n_rays
        start, end = rays.ravel().take(own), grown.ravel().take(own)
        growth, along, across = end - start, np.cos(turn), np.sin(turn)
        met = np.clip(distance / (2 * np.maximum(along, _LEAST)), start, end)  # as if both were equal circles
        # The neighbour's ray towards the meeting point depends on that point: each round starts from the last one.
        for _ in range(2):
            # a share of both growths is done: |met * direction - distance| = outline + speed * (met - start)
            x, y = met * along - distance, met * across
            outline, speed = _look_up(outlines, x, y, position, other)
            speed /= growth
            outline -= speed * start
            half = distance * along + speed * outline
            product = distance * distance - outline * outline
            # Squared, this is quadratic in ``met``; the solution in this form also holds where both speeds are equal.
            root = half + np.sqrt(np.maximum(half * half - (1 - speed * speed) * product, 0))
            met = np.clip(np.where(root > 0, product / np.maximum(root, _LEAST), end), start, end)
        np.minimum.at(cells.reshape(-1), own, met)
    return cells


class _Facing(NamedTuple):
    """Pairs of nuclei that may meet while they grow, and the rays of the first that may end in the second.

    Attributes:
        one: (P,) number of the nucleus.
        other: (P,) number of its neighbour.
        distance: (P,) um between their centres.
        position: (P,) direction from the nucleus to its neighbour, in rays.
        first: (P,) first of the rays.
        n: (P,) number of rays.
    """

    one: np.ndarray
    other: np.ndarray
    distance: np.ndarray
    position: np.ndarray
    first: np.ndarray
    n: np.ndarray


def _find_facing(xy: np.ndarray, grown: np.ndarray, n_own: int) -> _Facing:
    reach, n_rays = grown.max(1, initial=0), grown.shape[1]
    pairs = close_pairs(xy, 2 * float(reach.max(initial=0)))
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    apart = xy[pairs[:, 1]] - xy[pairs[:, 0]]
    squared = (apart**2).sum(1)
    near = np.flatnonzero((pairs[:, 0] < n_own) & (squared < reach[pairs].sum(1) ** 2))
    (one, other), squared = pairs[near].T, squared[near]
    # the widest angle at which a ray of this reach ends in the circle of the neighbour's reach
    outside = squared - reach[other] ** 2
    length = np.sqrt(np.where(outside > 0, np.minimum(reach[one] ** 2, outside), reach[one] ** 2))
    distance = np.maximum(np.sqrt(squared), _LEAST)
    widest = np.arccos(np.clip((length * length + outside) / (2 * length * distance), -1, 1))
    position, half = (angle * (n_rays / (2 * np.pi)) for angle in (np.arctan2(apart[near, 1], apart[near, 0]), widest))
    first = np.ceil(position - half).astype(int)
    n = np.clip(np.floor(position + half).astype(int) - first + 1, 0, n_rays)
    return _Facing(one, other, distance.astype(np.float32), position.astype(np.float32), first, n)


def _look_up(
    outlines: np.ndarray, x: np.ndarray, y: np.ndarray, position: np.ndarray, number: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Two rays (M,) of outlines (N, R, 2) by number (M,), towards (x, y) from an axis at ``position`` (M,), in rays."""
    _, angle = cv2.cartToPolar(x[None], y[None])
    ray = angle * np.float32(outlines.shape[1] / (2 * np.pi)) + position
    found = cv2.remap(outlines, ray, number[None].astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return found[0, :, 0].copy(), found[0, :, 1].copy()


def _stop_at_edge(xy: np.ndarray, rays: np.ndarray, cells: np.ndarray, info: SlideInfo, kept: KeptArea) -> np.ndarray:
    """The rays ``cells`` (N, R) of nuclei at level-0 positions (N, 2), shortened to where the tissue ends."""
    mpp, found = np.asarray(info.mpp), cells.copy()
    depth = _TissueDepth(xy * mpp, cells.max(initial=0), kept)
    border = np.flatnonzero(depth.at(xy * mpp) < cells.max(1, initial=0) + kept.mask_mpp.max())
    directions = ray_directions(rays.shape[1])
    centres, start, end = (xy[border] * mpp)[:, None], rays[border], cells[border]
    inner, outer = (depth.at(centres + each[..., None] * directions) for each in (start, end))
    share = np.maximum(inner, 0) / np.maximum(np.maximum(inner, 0) - outer, 1e-9)
    found[border] = np.where(outer < 0, start + share * (end - start), end)
    return found


class _TissueDepth:
    """Distance in um from positions within the tissue to its edge, and from those outside, as a negative number.

    Args:
        um: (N, 2) positions; only the mask around them is read.
        reach_um: largest distance from these positions at which the depth is requested.
        kept: the tissue.
    """

    def __init__(self, um: np.ndarray, reach_um: float, kept: KeptArea):
        margin = np.ceil((reach_um + 2 * KEEP_UM) / kept.mask_mpp).astype(int) + 2
        self._mpp, self._low = kept.mask_mpp, np.floor(um.min(0) / kept.mask_mpp).astype(int) - margin
        mask = kept.crop(self._low, np.floor(um.max(0) / kept.mask_mpp).astype(int) + margin + 1, beyond=1)
        distance = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        pixels = np.sqrt(np.rint(distance.astype(float) ** 2))  # whole: OpenCV's roots differ with the position
        # The kept area is the tissue grown by so many pixels: ``tissue.mask.dilate`` rounds alike.
        n_kept = np.floor((KEEP_UM + kept.mask_mpp.min() / 4) / kept.mask_mpp.mean())  # pixels beyond the tissue
        self._depth = ((pixels - 0.5 - n_kept) * kept.mask_mpp.mean()).astype(np.float32)

    def at(self, um: np.ndarray) -> np.ndarray:
        """The depth (...) at positions (..., 2) in um."""
        xy = um / self._mpp - self._low - 0.5
        cell = np.clip(np.floor(xy).astype(int), 0, np.array(self._depth.shape[::-1]) - 2)
        (x, y), (column, row) = np.moveaxis(xy - cell, -1, 0), np.moveaxis(cell, -1, 0)
        upper, lower = (
            self._depth[row + below, column] * (1 - x) + self._depth[row + below, column + 1] * x for below in (0, 1)
        )
        return upper * (1 - y) + lower * y
