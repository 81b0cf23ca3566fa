"""Which window a nucleus belongs to, and how two windows that both report one are reconciled.

A nucleus belongs to the window whose half-open core holds its centre. Neighbours see slightly different halos and may
place one nucleus on either side of the seam between them, so every window also reports what lies a little outside its
core, and seams are resolved here: two reports from different windows, near a seam, mutually nearest and within
``SAME_UM``, are one nucleus. The report deeper inside its core stays (a tie goes to the lower window). A report outside
its own core that no neighbour confirms is dropped: it was its neighbour's to find. No window reports a nucleus
twice: a report that stands for one of a window is not united with another of that window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from muse_pipeline.core.coords import window_to_work
from muse_pipeline.core.types import Frame
from muse_pipeline.nuclei.nms import close_pairs
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.store.grid import WindowGrid, WindowPart

SLACK_UM = 4.0
SAME_UM = 2.0


@dataclass
class Reports:
    """Where windows report nuclei (frame: work); whatever else they say of them does not matter here.

    Attributes:
        xy: (N, 2) positions.
        window: (N,) window of each.
        number: (N,) by which whoever asks knows each.
        stands_for: (N, 4) windows whose reports it stands for, its own too, in descending order; -1 for none.
    """

    xy: np.ndarray
    window: np.ndarray
    number: np.ndarray
    stands_for: np.ndarray

    @property
    def is_confirmed(self) -> np.ndarray:
        """(N,) whether a second window reported it."""
        return self.stands_for[:, 1] >= 0

    def __getitem__(self, index: np.ndarray) -> Reports:
        return Reports(self.xy[index], self.window[index], self.number[index], self.stands_for[index])

    @staticmethod
    def concatenate(parts: Sequence[Reports]) -> Reports:
        """All of them, one part or more, in this order."""
        columns = zip(*((part.xy, part.window, part.number, part.stands_for) for part in parts), strict=True)
        return Reports(*map(np.concatenate, columns))


def report_window(nuclei: Nuclei, window: int, grid: WindowGrid, part: WindowPart, mpp: float) -> Nuclei:
    """Those of the nuclei (frame: window) in the ``part`` of ``window`` that it reports, in work: core and slack."""
    xy = window_to_work(nuclei.require(Frame.WINDOW).xy, grid.part_xy(window, part))
    near = grid.depth_px(xy, window) >= -SLACK_UM / mpp
    return replace(nuclei, xy=xy, frame=Frame.WORK)[near]


def merge_seams(reports: Reports, grid: WindowGrid, mpp: float) -> Reports:
    """Unite reports of one nucleus by two windows, until none are left (four cores meet in a corner)."""
    alive = np.ones(len(reports.window), bool)
    stands_for = reports.stands_for.copy()
    depth = grid.depth_px(reports.xy, reports.window)
    near_seam = depth <= (SLACK_UM + SAME_UM) / mpp
    while True:
        candidates = np.flatnonzero(alive & near_seam)
        first, second = _mutually_nearest(reports.xy[candidates], stands_for[candidates], SAME_UM / mpp)
        if not len(first):
            return replace(reports, stands_for=stands_for)[np.flatnonzero(alive)]
        first, second = candidates[first], candidates[second]
        second_deeper = (depth[second] > depth[first]) | (
            (depth[second] == depth[first]) & (reports.window[second] < reports.window[first])
        )
        alive[np.where(second_deeper, first, second)] = False
        united = np.sort(np.concatenate([stands_for[first], stands_for[second]], 1), 1)[:, :-5:-1]
        stands_for[np.where(second_deeper, second, first)] = united


def _mutually_nearest(xy: np.ndarray, stands_for: np.ndarray, radius_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (i, j), i < j, that stand for no window both, within ``radius_px``, each the other's nearest."""
    pairs = close_pairs(xy, radius_px)
    first, second = stands_for[pairs[:, 0], :, None], stands_for[pairs[:, 1], None, :]
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
    """Resolves seams in a stream: reports go in, window after window, and the numbers of those come out that stay.

    Reports are numbered as they come, from 0. Held are the positions of two rows of windows.

    Args:
        grid: the window grid.
        mpp: um per work pixel.

    Attributes:
        n_decided: all numbers below it have come out by now, or never will.
    """

    def __init__(self, grid: WindowGrid, mpp: float):
        self.grid, self.mpp, self.n_decided = grid, mpp, 0
        self._n_added = 0
        self._row, self._waiting = -1, []  # the reports of the row of windows that is coming, in pieces
        self._row_above, self._above = -2, None

    def add(self, xy: np.ndarray, window: np.ndarray) -> np.ndarray:
        """Add reports at ``xy`` (N, 2) in work by ``window`` (N,), in ascending order, of any number of windows.

        Returns:
            (n,) int64 numbers of those that are final now: window by window, in each by y and then x.
        """
        number = np.arange(self._n_added, self._n_added + len(window))
        self._n_added += len(window)
        stands_for = np.full((len(window), 4), -1, np.int32)
        stands_for[:, 0] = window
        reports = Reports(xy, window, number, stands_for)
        rows = window // self.grid.shape[1]
        final = []
        for row in np.unique(rows).tolist():
            if row != self._row:
                final += self._close_row()
                self._row = row
            self._waiting.append(reports[rows == row])
        return np.concatenate([_NONE, *final])

    def finish(self) -> np.ndarray:
        """The numbers of what is left after the last window."""
        final = self._close_row()
        if self._above is not None:
            final.append(self._settle(self._above))
        self.n_decided, self._above = self._n_added, None
        return np.concatenate([_NONE, *final])

    def _close_row(self) -> list[np.ndarray]:
        """Resolve the seams of the row that is complete now, and give what is final of the row above it."""
        if not self._waiting:
            return []
        below, self._waiting = Reports.concatenate(self._waiting), []
        self.n_decided = int(below.number[0])
        final = []
        if self._above is not None and self._row_above != self._row - 1:
            final.append(self._settle(self._above))
            self._above = None
        if self._above is None:
            self._above = merge_seams(below, self.grid, self.mpp)
        else:
            both = merge_seams(Reports.concatenate([self._above, below]), self.grid, self.mpp)
            upper = both.window // self.grid.shape[1] < self._row
            final.append(self._settle(both[upper]))
            self._above = both[~upper]
        self._row_above = self._row
        return final

    def _settle(self, reports: Reports) -> np.ndarray:
        kept = reports[reports.is_confirmed | self.grid.owns(reports.xy, reports.window)]
        x, y = kept.xy.T
        return kept.number[np.lexsort((x, y, kept.window))]


_NONE = np.zeros(0, np.int64)
