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
from muse_pipeline.nuclei.nms import close_pairs
from muse_pipeline.nuclei.parquet import CELL_RAYS
from muse_pipeline.nuclei.rays import clip_rays, ray_directions, rays_to_rings
from muse_pipeline.nuclei.shape import area_and_moments
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.tissue.mask import KEEP_UM, KeptArea

_MOST_RAYS = 32_000  # that OpenCV looks up at once
_LEAST = np.float32(1e-6)


def find_cells(nuclei: Nuclei, others: Nuclei, expand_um: float, info: SlideInfo, kept: KeptArea) -> np.ndarray:
    """The rays (N, R) float32, in um, of the cells of nuclei (frame: level0).

    Args:
        nuclei: nuclei whose outlines do not overlap.
        others: all other nuclei within ``2 * expand_um`` of the outlines of these.
        expand_um: distance by which a nucleus grows where nothing is in its way.
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


def measure_area(
    nuclei: Nuclei, cells: np.ndarray, shapes: Mapping[str, np.ndarray], mpp: tuple[float, float]
) -> dict[str, np.ndarray]:
    """The columns of cells that follow from their rays (N, R), and the rays.

    Args:
        nuclei: the nuclei (frame: level0).
        cells: rays of their cells.
        shapes: measures of the nuclei by ``nuclei.shape.measure_shapes``.
        mpp: (x, y) um per pixel.
    """
    um = (rays_to_rings(nuclei.xy, cells, mpp) - nuclei.xy[:, None]) * np.asarray(mpp)
    area, _ = area_and_moments(*np.moveaxis(um, -1, 0).copy())
    return {CELL_RAYS: cells, "cell_area_um2": area, "nucleus_cell_ratio": shapes["area_um2"] / area}


def grow(rays: np.ndarray, distance_um: float) -> np.ndarray:
    """Rays (N, R) float32 of the outlines that are at a distance from those of ``rays`` (N, R), both in um."""
    n, n_rays = rays.shape
    step = 2 * np.pi / n_rays
    before, after = np.roll(rays, 1, 1), np.roll(rays, -1, 1)
    # the normal of each vertex, along its ray and across it
    along, across = (after + before) * np.float32(np.sin(step)), (before - after) * np.float32(np.cos(step))
    scale = np.float32(distance_um) / np.maximum(np.sqrt(along * along + across * across), _LEAST)
    reach, turn = cv2.cartToPolar(rays + scale * along, scale * across)
    turn -= np.float32(2 * np.pi) * (turn > np.pi)
    margin = n_rays // 4 + 1  # a vertex turns by less than a right angle
    around = np.arange(-margin, n_rays + margin)
    position = np.maximum.accumulate(around + turn[:, around % n_rays] / step, axis=1)
    row = 4 * n_rays * np.arange(n)[:, None]
    asked = np.arange(n_rays) + row
    found = np.interp(asked.ravel(), (position + row).ravel(), reach[:, around % n_rays].ravel())
    return np.maximum(found.reshape(n, n_rays).astype(np.float32), rays)


def _meet(xy: np.ndarray, rays: np.ndarray, grown: np.ndarray, n_own: int) -> np.ndarray:
    """The rays ``grown`` of the first ``n_own`` nuclei, shortened to where as much of a neighbour's growth is done."""
    reach, cells = grown.max(1, initial=0), grown[:n_own].copy()
    pairs = close_pairs(xy, 2 * float(reach.max(initial=0)))
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    far = ((xy[pairs[:, 1]] - xy[pairs[:, 0]]) ** 2).sum(1) >= reach[pairs].sum(1) ** 2
    pairs = pairs[(pairs[:, 0] < n_own) & ~far]
    directions = ray_directions(rays.shape[1]).astype(np.float32)
    at_once = _MOST_RAYS // len(directions)
    for first in range(0, len(pairs), at_once):
        one, other = pairs[first : first + at_once].T
        apart = (xy[other] - xy[one]).astype(np.float32)
        x, y = (grown[one] * directions[:, axis] - apart[:, axis, None] for axis in (0, 1))
        pair, ray = np.nonzero(x * x + y * y < (reach * reach)[other][:, None])
        one, other = one[pair], other[pair]
        start = rays[one, ray]
        facing = _Facing(start, grown[one, ray] - start, directions[ray].T.copy(), apart[pair].T.copy(), other)
        met, done = facing.meet(rays, grown)
        np.minimum.at(cells, (one[met], ray[met]), start[met] + done * facing.growth[met])
    return cells


class _Facing(NamedTuple):
    """Rays of nuclei that may meet a neighbour while they grow.

    Attributes:
        start: (M,) um, the ray of the nucleus.
        growth: (M,) um by which it grows where nothing is in its way.
        direction: (2, M) of the ray.
        apart: (2, M) um from the nucleus to its neighbour.
        other: (M,) number of the neighbour.
    """

    start: np.ndarray
    growth: np.ndarray
    direction: np.ndarray
    apart: np.ndarray
    other: np.ndarray

    def meet(self, rays: np.ndarray, grown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Indices (K,) of the rays that meet the neighbour, and the share (K,) of their growth that is done then."""
        late = self.lead(np.ones_like(self.start), rays, grown)
        met = np.flatnonzero(late > 0)
        facing = _Facing(*(each[..., met] for each in self))
        low, high, late = np.zeros(len(met), np.float32), np.ones(len(met), np.float32), late[met]
        early = np.minimum(facing.lead(low, rays, grown), 0)
        middle = low + early / np.minimum(early - late, -_LEAST)  # as if the lead grew evenly
        here = facing.lead(middle, rays, grown)
        low, early = np.where(here > 0, (low, early), (middle, here))
        high, late = np.where(here > 0, (middle, here), (high, late))
        return met, low + (high - low) * early / np.minimum(early - late, -_LEAST)

    def lead(self, done: np.ndarray, rays: np.ndarray, grown: np.ndarray) -> np.ndarray:
        """The share ``done`` (M,) of each ray's growth, less that with which the neighbour reaches the same point."""
        if not len(done):  # OpenCV takes no empty arrays
            return done
        x, y = (self.start + done * self.growth) * self.direction - self.apart
        distance, angle = cv2.cartToPolar(x[None], y[None])
        position = angle * np.float32(rays.shape[1] / (2 * np.pi)), self.other[None].astype(np.float32)
        outline, end = (
            cv2.remap(each, *position, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP) for each in (rays, grown)
        )
        return done - ((distance - outline) / np.maximum(end - outline, _LEAST))[0]


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
        reach_um: distance from these positions at which the depth is asked for.
        kept: the tissue.
    """

    def __init__(self, um: np.ndarray, reach_um: float, kept: KeptArea):
        margin = np.ceil((reach_um + 2 * KEEP_UM) / kept.mask_mpp).astype(int) + 2
        self._mpp, self._low = kept.mask_mpp, np.floor(um.min(0) / kept.mask_mpp).astype(int) - margin
        mask = kept.crop(self._low, np.floor(um.max(0) / kept.mask_mpp).astype(int) + margin + 1, beyond=1)
        distance = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        pixels = np.sqrt(np.rint(distance.astype(float) ** 2))  # whole: OpenCV's roots differ with the position
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
