"""Which window a nucleus belongs to, and how two windows that both report one are reconciled.

A nucleus belongs to the window whose half-open core holds its centre. Neighbours see slightly different halos and may
place one nucleus on either side of the seam between them, so every window also reports what lies a little outside its
core, and seams are resolved here: two reports from different windows, near a seam, mutually nearest and within
``SAME_UM``, are one nucleus. The report deeper inside its core stays (a tie goes to the lower window). A report outside
its own core that no neighbour confirms is dropped: it was its neighbour's to find.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import cKDTree

from muse_pipeline.coords import window_to_work
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.tiles.grid import WindowGrid
from muse_pipeline.types import Frame

SLACK_UM = 4.0
SAME_UM = 2.0


@dataclass
class Reports:
    """Nuclei (frame: work) with the window that reported each.

    Attributes:
        nuclei: N nuclei.
        window: (N,) window of each.
        merged: (N,) whether a second window confirmed it.
    """

    nuclei: Nuclei
    window: np.ndarray
    merged: np.ndarray

    def __getitem__(self, index: np.ndarray) -> Reports:
        return Reports(self.nuclei[index], self.window[index], self.merged[index])

    @staticmethod
    def concatenate(first: Reports, second: Reports) -> Reports:
        """Both, in this order."""
        return Reports(
            Nuclei.concatenate([first.nuclei, second.nuclei]),
            np.concatenate([first.window, second.window]),
            np.concatenate([first.merged, second.merged]),
        )


def report_window(nuclei: Nuclei, window: int, grid: WindowGrid, mpp: float) -> Nuclei:
    """The nuclei (frame: window) that ``window`` reports, in work: its core and the slack around it."""
    xy = window_to_work(nuclei.require(Frame.WINDOW).xy, grid.origin_xy(window))
    near = grid.depth_px(xy, window) >= -SLACK_UM / mpp
    return replace(nuclei, xy=xy, frame=Frame.WORK)[near]


def merge_seams(reports: Reports, grid: WindowGrid, mpp: float) -> Reports:
    """Unite reports of one nucleus by two windows, until none are left (four cores meet in a corner)."""
    alive = np.ones(len(reports.window), bool)
    merged = reports.merged.copy()
    depth = grid.depth_px(reports.nuclei.xy, reports.window)
    near_seam = depth <= (SLACK_UM + SAME_UM) / mpp
    while True:
        candidates = np.flatnonzero(alive & near_seam)
        first, second = _mutually_nearest(reports.nuclei.xy[candidates], reports.window[candidates], SAME_UM / mpp)
        if not len(first):
            return replace(reports, merged=merged)[np.flatnonzero(alive)]
        first, second = candidates[first], candidates[second]
        second_deeper = (depth[second] > depth[first]) | (
            (depth[second] == depth[first]) & (reports.window[second] < reports.window[first])
        )
        alive[np.where(second_deeper, first, second)] = False
        merged[np.where(second_deeper, second, first)] = True


def _mutually_nearest(xy: np.ndarray, window: np.ndarray, radius_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (i, j), i < j, of different windows within ``radius_px``, each the other's nearest."""
    none = np.zeros(0, int)
    if len(xy) < 2:
        return none, none
    pairs = cKDTree(xy).query_pairs(radius_px, output_type="ndarray")
    pairs = pairs[window[pairs[:, 0]] != window[pairs[:, 1]]]
    if not len(pairs):
        return none, none
    distance = np.hypot(*(xy[pairs[:, 0]] - xy[pairs[:, 1]]).T)
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0], distance))]
    rank = np.arange(len(pairs))
    best = np.full(len(xy), len(pairs))
    np.minimum.at(best, pairs[:, 0], rank)
    np.minimum.at(best, pairs[:, 1], rank)
    mutual = (best[pairs[:, 0]] == rank) & (best[pairs[:, 1]] == rank)
    return pairs[mutual, 0], pairs[mutual, 1]


class SeamResolver:
    """Resolves seams in a stream: rows of windows go in from the top, finished nuclei come out; two rows are in memory.

    Args:
        grid: the window grid.
        mpp: um per work pixel.
    """

    def __init__(self, grid: WindowGrid, mpp: float):
        self.grid, self.mpp = grid, mpp
        self._row, self._pending = -2, None

    def add_row(self, row: int, nuclei: Nuclei, window: np.ndarray) -> Nuclei | None:
        """Add all reports of one row of windows; return what is final now, or None.

        Rows must come in ascending order; rows without windows are left out.
        """
        reports = Reports(nuclei.require(Frame.WORK), window, np.zeros(len(window), bool))
        final = None
        if self._pending is not None and row != self._row + 1:
            final, self._pending = self._settle(self._pending), None
        if self._pending is None:
            self._pending = merge_seams(reports, self.grid, self.mpp)
        else:
            both = merge_seams(Reports.concatenate(self._pending, reports), self.grid, self.mpp)
            upper = both.window // self.grid.shape[1] < row
            final, self._pending = self._settle(both[upper]), both[~upper]
        self._row = row
        return final

    def finish(self) -> Nuclei | None:
        """What is left after the last row."""
        final = None if self._pending is None else self._settle(self._pending)
        self._row, self._pending = -2, None
        return final

    def _settle(self, reports: Reports) -> Nuclei:
        kept = reports[reports.merged | self.grid.owns(reports.nuclei.xy, reports.window)]
        x, y = kept.nuclei.xy.T
        return kept.nuclei[np.lexsort((x, y, kept.window))]
