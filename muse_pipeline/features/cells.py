"""Whole cells: nuclei grown by a few um, up to halfway between neighbours and to the edge of the
tissue.

A cell has the centre and the number of rays of its nucleus. It grows at right angles to the
nucleus' outline, and stops where it meets a neighbour, which grows at the same speed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import cv2
import numpy as np
from numpy import ndarray

from muse_pipeline.core.types import SlideInfo
from muse_pipeline.features.densities import count_from
from muse_pipeline.nuclei.pairs import close_pairs
from muse_pipeline.nuclei.parquet import CELL_RAYS
from muse_pipeline.nuclei.rays import clip_rays, ray_directions
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.tissue.mask import KEEP_UM, KeptArea, measure_depth

_RAYS_AT_ONCE = 1 << 14  # OpenCV is limited to 32,767 positions
_LEAST = np.float32(1e-6)


def find_cells(
    nuclei: Nuclei, others: Nuclei, expand_um: float, info: SlideInfo, kept: KeptArea
) -> ndarray:
    """The cells of nuclei (frame: level0) whose outlines do not overlap, as rays (N, R) float32 in
    um.

    Nuclei grow by ``expand_um`` if nothing obstructs them; cells end at the edges of the slide and
    of its tissue. Of the ``others``, only those within ``2 * expand_um`` of the outlines matter.
    """
    mpp = np.asarray(info.mpp)
    reach = sum(part.rays.max(initial=0) + expand_um for part in (nuclei, others))
    others = others[_are_near(nuclei.xy * mpp, others.xy * mpp, float(reach))]
    xy_um = np.concatenate([nuclei.xy, others.xy]) * mpp
    rays = np.concatenate([nuclei.rays, others.rays])
    grown = grow(rays, expand_um)
    cells = _meet(xy_um, rays, grown, len(nuclei))
    cells = _stop_at_edge(nuclei.xy, nuclei.rays, cells, info, kept)
    for box in ((0, 0, *info.size_px), info.scanned_box):
        cells = clip_rays(nuclei.xy, cells, info.mpp, box)
    return np.maximum(cells, nuclei.rays)


def measure_area(cells: ndarray, shapes: Mapping[str, ndarray]) -> dict[str, ndarray]:
    """The columns of cells with these rays (N, R) in um: rays, areas, and ratios of the areas of
    nucleus and cell.

    The ``shapes`` of their nuclei come from ``nuclei.shape.measure_shapes``.
    """
    rays = cells.astype(float)
    area = (rays * np.roll(rays, 1, 1)).sum(1) * (np.sin(2 * np.pi / rays.shape[1]) / 2)
    return {
        CELL_RAYS: cells,
        "cell_area_um2": area,
        "nucleus_cell_ratio": shapes["area_um2"] / area,
    }


def grow(rays: ndarray, distance_um: float) -> ndarray:
    """Grow outlines, given as ``rays`` (N, R), by a distance: rays (N, R) float32, all in um.

    A grown outline surrounds circles of radius ``distance_um`` around the vertices of the original
    outline.
    """
    n_rays = rays.shape[1]
    distance = np.float32(distance_um)
    rays = np.ascontiguousarray(rays.T)
    grown = rays + distance
    with np.errstate(invalid="ignore"):  # a circle that does not reach a ray gives NaN
        # a circle at more than a right angle to a ray does not extend it
        for step in range(1, n_rays // 4 + 1):
            across, along = (
                rays * np.float32(part(2 * np.pi * step / n_rays)) for part in (np.sin, np.cos)
            )
            reach = along + np.sqrt(distance * distance - across * across)
            for turn in (step, n_rays - step):
                np.fmax(grown[turn:], reach[:-turn], out=grown[turn:])
                np.fmax(grown[:turn], reach[-turn:], out=grown[:turn])
    return np.ascontiguousarray(grown.T)


def _are_near(xy: ndarray, others: ndarray, distance: float) -> ndarray:
    """(M,) bool: True for ``others`` (M, 2) within ``distance`` of any of ``xy`` (N, 2), and for
    some beyond it.
    """
    squares = np.floor(np.concatenate([xy, others]) * (3.99 / distance)).astype(int)
    squares -= squares.min(0)
    near = np.zeros(squares.max(0) + 1, np.uint8)
    near[tuple(squares[: len(xy)].T)] = 1
    return cv2.dilate(near, np.ones((9, 9), np.uint8))[tuple(squares[len(xy) :].T)] > 0


def _meet(xy: ndarray, rays: ndarray, grown: ndarray, n_own: int) -> ndarray:
    """The first ``n_own`` of the ``grown`` nuclei, as rays that end where growing neighbours
    meet.
    """
    n_rays, growths = rays.shape[1], grown - rays
    cells, ray_of = grown[:n_own].copy(), np.arange(2 * n_rays) % n_rays
    facing = _find_facing(xy, grown, n_own)
    for begin in range(0, len(facing[0]), _RAYS_AT_ONCE):
        nucleus, neighbour, distance, position, ray = (
            values[begin : begin + _RAYS_AT_ONCE] for values in facing
        )
        turn = (ray.astype(np.float32) - position) * np.float32(2 * np.pi / n_rays)
        own = nucleus * n_rays + ray_of.take(ray)
        start, end = rays.ravel().take(own), grown.ravel().take(own)
        growth = end - start
        along = np.cos(turn)
        across = np.sin(turn)
        # if both were circles of equal size
        met = np.clip(distance / (2 * np.maximum(along, _LEAST)), start, end)
        # The neighbour's ray towards the meeting point depends on that point, so the solution is
        # iterated.
        for _ in range(2):
            # When they meet, both have grown by the same share of their growth:
            # |met * direction - distance| = outline + speed * (met - start)
            x, y = met * along - distance, met * across
            outline, speed = _look_up((rays, growths), x, y, position, neighbour)
            speed /= growth
            outline -= speed * start
            half = distance * along + speed * outline
            product = distance * distance - outline * outline
            # Squared, this is quadratic in ``met``; this form of the solution also holds if both
            # speeds are equal.
            root = half + np.sqrt(np.maximum(half * half - (1 - speed * speed) * product, 0))
            met = np.clip(np.where(root > 0, product / np.maximum(root, _LEAST), end), start, end)
        np.minimum.at(cells.reshape(-1), own, met)
    return cells


def _find_facing(xy: ndarray, grown: ndarray, n_own: int) -> list[ndarray]:
    """Rays of the first ``n_own`` nuclei that may meet a neighbour while both grow.

    The arrays (M,) are the index of the nucleus; index of the neighbour; um between their centres;
    direction from the nucleus to the neighbour, in rays; index of the ray, from -R to 2 R - 1
    instead of 0 to R - 1.
    """
    reach, n_rays = grown.max(1, initial=0), grown.shape[1]
    pairs = close_pairs(xy, 2 * float(reach.max(initial=0))).T
    x, y = np.diff(xy.T.take(pairs, axis=1), axis=1)[:, 0]
    near = np.flatnonzero((x * x + y * y < reach.take(pairs).sum(0) ** 2) & (pairs.min(0) < n_own))
    nucleus, neighbour = np.concatenate([pairs[:, near], pairs[::-1, near]], axis=1)
    x, y = (np.concatenate([axis.take(near), -axis.take(near)]) for axis in (x, y))
    squared = x * x + y * y
    # The widest angle to the neighbour at which a ray as long as the nucleus' reach can enter the
    # neighbour's reach.
    outside = squared - reach[neighbour] ** 2
    length = np.sqrt(
        np.where(outside > 0, np.minimum(reach[nucleus] ** 2, outside), reach[nucleus] ** 2)
    )
    distance = np.maximum(np.sqrt(squared), _LEAST)
    widest = np.arccos(np.clip((length * length + outside) / (2 * length * distance), -1, 1))
    position, half = (angle * (n_rays / (2 * np.pi)) for angle in (np.arctan2(y, x), widest))
    first = np.ceil(position - half).astype(int)
    n = np.where(
        nucleus < n_own, np.clip(np.floor(position + half).astype(int) - first + 1, 0, n_rays), 0
    )
    of_pair = nucleus, neighbour, distance.astype(np.float32), position.astype(np.float32)
    return [*(np.repeat(values, n) for values in of_pair), count_from(first, n)]


def _look_up(
    maps: Sequence[ndarray], x: ndarray, y: ndarray, position: ndarray, number: ndarray
) -> Iterator[ndarray]:
    """Yield values (M,) of ``maps`` (N, R) for nuclei ``number``, in direction (x, y) relative to
    ray ``position``.
    """
    _, angle = cv2.cartToPolar(x[None], y[None])
    ray = angle * np.float32(maps[0].shape[1] / (2 * np.pi)) + position
    row = number[None].astype(np.float32)
    for rays in maps:  # faster than looking up both maps at once
        yield cv2.remap(rays, ray, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)[0]


def _stop_at_edge(
    xy: ndarray, rays: ndarray, cells: ndarray, info: SlideInfo, kept: KeptArea
) -> ndarray:
    """The rays ``cells`` (N, R) of nuclei at level-0 positions ``xy`` (N, 2), cut off at the edge
    of the tissue.
    """
    mpp, cut = np.asarray(info.mpp), cells.copy()
    depth = _TissueDepth(xy * mpp, cells.max(initial=0), kept)
    border = np.flatnonzero(depth.at(xy * mpp) < cells.max(1, initial=0) + kept.mask_mpp.max())
    directions = ray_directions(rays.shape[1])
    centres = (xy[border] * mpp)[:, None]
    start = rays[border]
    end = cells[border]
    inner, outer = (depth.at(centres + um[..., None] * directions) for um in (start, end))
    share = np.maximum(inner, 0) / np.maximum(np.maximum(inner, 0) - outer, 1e-9)
    cut[border] = np.where(outer < 0, start + share * (end - start), end)
    return cut


class _TissueDepth:
    """Distance in um to the edge of the tissue, negative outside it, within ``reach_um`` of
    positions (N, 2) in um.
    """

    def __init__(self, um: ndarray, reach_um: float, kept: KeptArea):
        margin = np.ceil((reach_um + 2 * KEEP_UM) / kept.mask_mpp).astype(int) + 2
        self._mpp = kept.mask_mpp
        self._low = np.floor(um.min(0) / kept.mask_mpp).astype(int) - margin
        mask = kept.crop(
            self._low, np.floor(um.max(0) / kept.mask_mpp).astype(int) + margin + 1, beyond=1
        )
        # The kept area extends this many pixels beyond the tissue, rounded as in
        # ``tissue.mask.dilate``.
        n_kept = np.floor((KEEP_UM + kept.mask_mpp.min() / 4) / kept.mask_mpp.mean())
        depth = measure_depth(mask, kept.mask_mpp) - (0.5 + n_kept) * kept.mask_mpp.mean()
        self._depth = depth.astype(np.float32)

    def at(self, um: ndarray) -> ndarray:
        """The depth (...) at positions (..., 2) in um."""
        xy = um / self._mpp - self._low - 0.5
        cell = np.clip(np.floor(xy).astype(int), 0, np.array(self._depth.shape[::-1]) - 2)
        (x, y), (column, row) = np.moveaxis(xy - cell, -1, 0), np.moveaxis(cell, -1, 0)
        upper, lower = (
            self._depth[row + below, column] * (1 - x) + self._depth[row + below, column + 1] * x
            for below in (0, 1)
        )
        return upper * (1 - y) + lower * y
