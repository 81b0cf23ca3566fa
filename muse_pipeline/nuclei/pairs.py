"""Pairs of close nuclei: duplicates are suppressed, overlaps divided, and reports of two windows
merged.

A nucleus belongs to the window whose half-open core contains its centre. Neighbouring windows see
slightly different context and may locate one nucleus on different sides of the seam between them,
so every window also reports nuclei slightly outside its core, and seams are resolved here. Two
reports near a seam belong to one nucleus if they come from different windows, are nearest to each
other and lie within ``SAME_UM``. The report deeper inside its core is kept; in a tie, the one from
the window with the lower index. A report outside its own core is dropped unless a neighbour
confirms it. No window reports a nucleus twice, so two reports to which the same window has
contributed are not merged.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import shapely
from numpy import ndarray

from muse_pipeline.core.coords import window_to_work
from muse_pipeline.core.types import Frame
from muse_pipeline.nuclei.rays import ray_directions, rays_to_rings
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.store.grid import WindowGrid, WindowPart

# rounding must not put two positions a radius apart into cells that are not adjacent
SLACK = 1 + 1e-9
SLACK_UM = 4.0  # distance outside its core up to which a window reports nuclei
SAME_UM = 2.0  # maximum distance between two reports of the same nucleus


def close_pairs(xy: ndarray, radius: float) -> ndarray:
    """Pairs (P, 2), i < j, of positions (N, 2) at most ``radius`` apart, in no particular order.

    Positions are sorted into cells as wide as the radius, so all close neighbours lie in the same
    or an adjacent cell. (SciPy has a tree for this, but loading it takes as long as stitching 5 mm2
    of tissue.)
    """
    if len(xy) < 2:
        return np.zeros((0, 2), int)
    column, row = np.floor((xy - xy.min(axis=0)) / (radius * SLACK)).astype(np.int64).T
    # including an empty column between the end of a row and the next row
    n_columns = column.max() + 2
    cell = row * n_columns + column
    order = np.argsort(cell, kind="stable")
    cell = cell[order]
    here = np.arange(len(cell))
    # Each position is compared with the later ones in its cell and with all in the next cell and
    # the three below.
    start = np.concatenate([here + 1, np.searchsorted(cell, cell + n_columns - 1)])
    stop = np.searchsorted(cell, np.concatenate([cell + 1, cell + n_columns + 1]), side="right")
    n_others = stop - start
    first = np.repeat(np.tile(here, 2), n_others)
    second = np.arange(len(first)) + np.repeat(start - (np.cumsum(n_others) - n_others), n_others)
    x, y = np.ascontiguousarray(xy[order].T)
    near = (x[first] - x[second]) ** 2 + (y[first] - y[second]) ** 2 <= radius**2
    return np.sort(order[np.stack([first[near], second[near]], axis=1)], axis=1)


SAME_SHARE = 0.4  # maximum overlap, as a fraction of the smaller outline; see docs/results.md
# nuclei that are compared with each other, after a comparison with those kept of the blocks before
BLOCK = 256
# limits of rays; GEOS cannot make polygons of rays that are 0, negative or NaN
SANE_UM = (0.01, 1000.0)


def suppress_overlaps(nuclei: Nuclei, mpp: float) -> Nuclei:
    """Keep only the higher-scored of two outlines whose overlap is more than ``SAME_SHARE`` of the
    smaller one.

    The nuclei of one window are sorted by descending score. The choice is greedy by score, as in
    StarDist (Schmidt et al., MICCAI 2018): dropped nuclei do not suppress others.
    """
    if not nuclei.rays.size:
        return nuclei
    xy_um = nuclei.xy * mpp
    rays = np.nan_to_num(nuclei.rays).clip(*SANE_UM)
    kept = np.zeros(0, int)
    for start in range(0, len(nuclei), BLOCK):
        both = np.concatenate([kept, np.arange(start, min(start + BLOCK, len(nuclei)))])
        _, covered = _overlapping_pairs(xy_um[both], rays[both], len(kept))
        block = np.delete(both, covered)[len(kept) :]
        is_kept = np.ones(len(block), bool)
        for better, worse in zip(*_overlapping_pairs(xy_um[block], rays[block]), strict=True):
            if is_kept[better]:
                is_kept[worse] = False
        kept = np.concatenate([kept, block[is_kept]])
    return nuclei if len(kept) == len(nuclei) else nuclei[kept]


def _overlapping_pairs(
    xy_um: ndarray, rays: ndarray, n: int | None = None
) -> tuple[ndarray, ndarray]:
    """Indices (P,), (P,) of overlapping nuclei: the lower index of each pair first, pairs in
    ascending order.

    With ``n``, only pairs of one of the first ``n`` nuclei and one of the others.
    """
    pairs = close_pairs(xy_um, 2 * float(rays.max(initial=0)))
    pairs = pairs if n is None else pairs[(pairs[:, 0] < n) & (pairs[:, 1] >= n)]
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    first, second = pairs.T
    x, y = (xy_um[second] - xy_um[first]).T
    turn = np.arctan2(y, x) / (2 * np.pi)  # fraction of a full turn
    n_rays = rays.shape[1]
    ahead, back = (np.rint((turn + way) * n_rays).astype(int) % n_rays for way in (0, 0.5))
    # areas are computed only for these pairs
    meet = rays[first, ahead] + rays[second, back] > np.hypot(x, y)
    first, second = first[meet], second[meet]
    outline, other = (
        shapely.polygons(rays_to_rings(xy_um[side], rays[side], (1, 1))) for side in (first, second)
    )
    shared = shapely.area(shapely.intersection(outline, other))
    same = shared > SAME_SHARE * np.minimum(shapely.area(outline), shapely.area(other))
    return first[same], second[same]


REACH_UM = 32.0  # nuclei with centres farther apart do not cut each other
# range in which a line may cross the segment between two centres, as fractions of its length
MIDDLE = (0.25, 0.75)


class Cuts(NamedTuple):
    """Straight lines that divide pairs (P, 2) of nuclei, by index.

    Each line has a normal (P, 2) of any length, from the first nucleus to the second, and a point
    (P, 2) in um.
    """

    pair: ndarray
    normal: ndarray
    point: ndarray


def cut_apart(xy_um: ndarray, rays: ndarray, others_um: ndarray, others_rays: ndarray) -> ndarray:
    """Shorten the rays (N, R) of nuclei that end in another nucleus; centres and rays are in um.

    Two nuclei whose outlines cross are divided by the line through the two outermost crossings or,
    if one of the centres is beyond that line, by a line at right angles to the segment between the
    centres. A line depends only on its two nuclei, so the result for a pair does not depend on
    which other nuclei are passed. The M others limit the N nuclei, but are not cut.
    """
    xy = np.concatenate([xy_um, others_um])
    all_rays = np.concatenate([rays, others_rays])
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
        # If a nucleus is in several pairs, each of its rays ends at the nearest line.
        np.minimum.at(shortened, nucleus[own], limit[own].astype(np.float32))
    return shortened


def _overlapping(xy: ndarray, rays: ndarray, n_own: int) -> ndarray:
    """Pairs (P, 2) that may overlap and contain one of the first ``n_own`` nuclei; the upper
    nucleus comes first.
    """
    radius = np.fmax.reduce(rays, 1, initial=0)  # faulty models return NaN
    pairs = close_pairs(xy, min(2 * float(radius.max(initial=0)), REACH_UM))
    pairs = pairs[pairs[:, 0] < n_own]
    apart = xy[pairs[:, 1]] - xy[pairs[:, 0]]
    near = np.sqrt(_dot(apart, apart)) < radius[pairs].sum(1)
    pairs, (x, y) = pairs[near], apart[near].T
    # A pair has the same order in every call, so that rounding is the same, whichever of its nuclei
    # the call cuts.
    pairs = np.where(((y > 0) | ((y == 0) & (x > 0)))[:, None], pairs, pairs[:, ::-1])
    apart = xy[pairs[:, 1]] - xy[pairs[:, 0]]
    reach = [_extent(rays[pairs[:, side]], way) for side, way in ((0, apart), (1, -apart))]
    return pairs[sum(reach) > _dot(apart, apart)]  # otherwise a line separates them


def find_cuts(xy: ndarray, rays: ndarray, pairs: ndarray) -> Cuts:
    """Dividing lines for the pairs among ``pairs`` (P, 2) whose outlines cross."""
    used, index = np.unique(pairs, return_inverse=True)
    rings = shapely.linearrings(rays_to_rings(xy[used], rays[used], (1, 1)))
    outline, other = rings[index.reshape(pairs.shape)].T
    crossings, pair = shapely.get_coordinates(
        shapely.intersection(outline, other), return_index=True
    )
    axis = xy[pairs[:, 1]] - xy[pairs[:, 0]]
    # Crossings are sorted across the segment between the centres; the outermost two are the ends of
    # the dividing line.
    along = axis[pair, 0] * crossings[:, 1] - axis[pair, 1] * crossings[:, 0]
    order = np.lexsort((along, pair))
    pair, crossings = pair[order], crossings[order]
    crossed, begin = np.unique(pair, return_index=True)
    low = crossings[begin]
    high = crossings[np.append(begin[1:], len(pair))[: len(begin)] - 1]
    pairs = pairs[crossed]
    axis = axis[crossed]
    middle = (low + high) / 2
    normal = np.stack([high[:, 1] - low[:, 1], low[:, 0] - high[:, 0]], 1)
    start, end = xy[pairs[:, 0]], xy[pairs[:, 1]]
    across = ~((_dot(normal, middle - start) > 0) & (_dot(normal, end - middle) > 0))
    way = (_dot(axis, middle - start) / _dot(axis, axis)).clip(*MIDDLE)
    normal = np.where(across[:, None], axis, normal)
    return Cuts(pairs, normal, np.where(across[:, None], start + way[:, None] * axis, middle))


def _extent(rays: ndarray, way: ndarray) -> ndarray:
    """(P,) extent of outlines (P, R) in the directions ``way`` (P, 2), times the length of
    ``way``.
    """
    directions = ray_directions(rays.shape[1])
    return (rays * (way[:, :1] * directions[:, 0] + way[:, 1:] * directions[:, 1])).max(
        1, initial=0
    )


def _dot(first: ndarray, second: ndarray) -> ndarray:
    return first[:, 0] * second[:, 0] + first[:, 1] * second[:, 1]


# Reports of nuclei by windows (frame: work), numbered by the caller. The windows whose reports are
# merged into a report include its own, in descending order; padded with -1.
REPORT = np.dtype(
    [("xy", float, 2), ("window", int), ("number", int), ("merged_windows", np.int32, 4)]
)


def report_window(
    nuclei: Nuclei, window: int, grid: WindowGrid, part: WindowPart, mpp: float
) -> Nuclei:
    """The ``nuclei`` of ``part`` that ``window`` reports, converted to work px: up to ``SLACK_UM``
    outside its core.
    """
    xy = window_to_work(nuclei.require(Frame.WINDOW).xy, grid.part_xy(window, part))
    near = grid.depth_px(xy, window) >= -SLACK_UM / mpp
    return replace(nuclei, xy=xy, frame=Frame.WORK)[near]


def merge_seams(reports: ndarray, grid: WindowGrid, mpp: float) -> ndarray:
    """Merge reports (N,) of the same nucleus pair by pair, repeatedly, because four cores meet at a
    corner.
    """
    reports, alive = reports.copy(), np.ones(len(reports), bool)
    xy, window, merged_windows = (reports[name] for name in ("xy", "window", "merged_windows"))
    depth = grid.depth_px(xy, window)
    # The other report lies within ``SAME_UM`` of this one, and at most ``SLACK_UM`` outside its own
    # core.
    near_seam = depth <= (SLACK_UM + SAME_UM) / mpp
    while True:
        candidates = np.flatnonzero(alive & near_seam)
        first, second = _mutually_nearest(xy[candidates], merged_windows[candidates], SAME_UM / mpp)
        if not len(first):
            return reports[alive]
        first, second = candidates[first], candidates[second]
        second_deeper = (depth[second] > depth[first]) | (
            (depth[second] == depth[first]) & (window[second] < window[first])
        )
        alive[np.where(second_deeper, first, second)] = False
        # At most four cores meet, so the four largest numbers include all windows; the rest is
        # padding.
        united = np.sort(np.concatenate([merged_windows[first], merged_windows[second]], 1), 1)[
            :, :-5:-1
        ]
        merged_windows[np.where(second_deeper, second, first)] = united


def _mutually_nearest(
    xy: ndarray, merged_windows: ndarray, radius_px: float
) -> tuple[ndarray, ndarray]:
    """Pairs (i, j), i < j, that have no window in common, lie within ``radius_px`` and are nearest
    to each other.
    """
    pairs = close_pairs(xy, radius_px)
    first = merged_windows[pairs[:, 0], :, None]
    second = merged_windows[pairs[:, 1], None, :]
    pairs = pairs[~((first == second) & (first >= 0)).any((1, 2))]
    distance = np.hypot(*(xy[pairs[:, 0]] - xy[pairs[:, 1]]).T)
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0], distance))]
    rank = np.arange(len(pairs))
    best = np.full(len(xy), len(pairs))
    np.minimum.at(best, pairs[:, 0], rank)
    np.minimum.at(best, pairs[:, 1], rank)
    mutual = (best[pairs[:, 0]] == rank) & (best[pairs[:, 1]] == rank)
    return pairs[mutual, 0], pairs[mutual, 1]


class SeamResolver:
    """Resolves seams in a stream: receives reports, window by window, and returns the numbers of
    those that are kept.

    Reports are numbered from 0, in the order of arrival. Only the reports of two rows of windows
    are held in memory. All reports below the number ``n_decided`` have been returned or dropped.
    """

    def __init__(self, grid: WindowGrid, mpp: float):
        self.grid = grid
        self.mpp = mpp
        self.n_decided = 0
        self._n_added = 0
        self._row, self._waiting = -1, []  # reports of the current row of windows
        self._row_above, self._above = -2, None

    def add(self, xy: ndarray, window: ndarray) -> ndarray:
        """Add reports at ``xy`` (N, 2) in work px from ``window`` (N,): any number of windows, in
        ascending order.

        Returns the numbers (n,) int64 of reports that are now known to be kept, sorted by window,
        then y, then x.
        """
        reports = np.zeros(len(window), REPORT)
        reports["xy"], reports["window"] = xy, window
        reports["number"] = np.arange(self._n_added, self._n_added + len(window))
        reports["merged_windows"] = -1
        reports["merged_windows"][:, 0] = window
        self._n_added += len(window)
        rows = window // self.grid.shape[1]
        final = []
        for row in np.unique(rows).tolist():
            if row != self._row:
                final += self._close_row()
                self._row = row
            self._waiting.append(reports[rows == row])
        return np.concatenate([_NONE, *final])

    def finish(self) -> ndarray:
        """Return the numbers of the remaining reports that are kept, after the last window."""
        final = self._close_row()
        if self._above is not None:
            final.append(self._settle(self._above))
        self.n_decided, self._above = self._n_added, None
        return np.concatenate([_NONE, *final])

    def _close_row(self) -> list[ndarray]:
        """Resolve the seams of the complete row, and return the numbers of the reports kept in the
        row above it.
        """
        if not self._waiting:
            return []
        below, self._waiting = np.concatenate(self._waiting), []
        self.n_decided = int(below["number"][0])
        final = []
        if self._above is not None and self._row_above != self._row - 1:
            final.append(self._settle(self._above))
            self._above = None
        if self._above is None:
            self._above = merge_seams(below, self.grid, self.mpp)
        else:
            # The row above now has both of its neighbours and is final; this row waits for the one
            # below.
            both = merge_seams(np.concatenate([self._above, below]), self.grid, self.mpp)
            upper = both["window"] // self.grid.shape[1] < self._row
            final.append(self._settle(both[upper]))
            self._above = both[~upper]
        self._row_above = self._row
        return final

    def _settle(self, reports: ndarray) -> ndarray:
        is_confirmed = reports["merged_windows"][:, 1] >= 0  # by at least two windows
        kept = reports[is_confirmed | self.grid.owns(reports["xy"], reports["window"])]
        x, y = kept["xy"].T
        return kept["number"][np.lexsort((x, y, kept["window"]))]


_NONE = np.zeros(0, np.int64)
