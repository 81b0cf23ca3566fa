"""Seams: the assignment of nuclei to windows, and merging of reports of one nucleus by two windows.

A nucleus belongs to the window whose half-open core contains its centre. Neighbours have slightly different halos and
may locate one nucleus on either side of the seam between them, so every window also reports nuclei slightly outside its
core, and seams are resolved here: two reports from different windows, near a seam, mutually nearest and within
``SAME_UM``, are one nucleus. The report deeper inside its core is kept (in a tie that of the lower window). A report
outside its own core that no neighbour confirms is dropped. No window reports a nucleus twice: two reports that each
contain one of the same window are not merged.
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
    """Reports of nuclei by windows (frame: work).

    Attributes:
        xy: (N, 2) positions.
        window: (N,) window of each.
        number: (N,) identifier of each, from the caller.
        merged_windows: (N, 4) windows whose reports are merged in it, its own included, in descending order; padded
            with -1.
    """

    xy: np.ndarray
    window: np.ndarray
    number: np.ndarray
    merged_windows: np.ndarray

    @property
    def is_confirmed(self) -> np.ndarray:
        """(N,) bool: True if a second window reported it."""
        return self.merged_windows[:, 1] >= 0

    def __getitem__(self, index: np.ndarray) -> Reports:
        return Reports(self.xy[index], self.window[index], self.number[index], self.merged_windows[index])

    @staticmethod
    def concatenate(parts: Sequence[Reports]) -> Reports:
        """All reports of one or more parts, in order."""
        columns = zip(*((part.xy, part.window, part.number, part.merged_windows) for part in parts), strict=True)
        return Reports(*map(np.concatenate, columns))


def report_window(nuclei: Nuclei, window: int, grid: WindowGrid, part: WindowPart, mpp: float) -> Nuclei:
    """The nuclei (frame: window) in ``part`` of ``window`` that it reports, in work: those in core and slack."""
    xy = window_to_work(nuclei.require(Frame.WINDOW).xy, grid.part_xy(window, part))
    near = grid.depth_px(xy, window) >= -SLACK_UM / mpp
    return replace(nuclei, xy=xy, frame=Frame.WORK)[near]


def merge_seams(reports: Reports, grid: WindowGrid, mpp: float) -> Reports:
    """Merge reports of one nucleus by two windows, until none are left (four cores meet in a corner)."""
    alive = np.ones(len(reports.window), bool)
    merged_windows = reports.merged_windows.copy()
    depth = grid.depth_px(reports.xy, reports.window)
    near_seam = depth <= (SLACK_UM + SAME_UM) / mpp
    while True:
        candidates = np.flatnonzero(alive & near_seam)
        first, second = _mutually_nearest(reports.xy[candidates], merged_windows[candidates], SAME_UM / mpp)
        if not len(first):
            return replace(reports, merged_windows=merged_windows)[np.flatnonzero(alive)]
        first, second = candidates[first], candidates[second]
        second_deeper = (depth[second] > depth[first]) | (
            (depth[second] == depth[first]) & (reports.window[second] < reports.window[first])
        )
        alive[np.where(second_deeper, first, second)] = False
        united = np.sort(np.concatenate([merged_windows[first], merged_windows[second]], 1), 1)[:, :-5:-1]
        merged_windows[np.where(second_deeper, second, first)] = united


def _mutually_nearest(xy: np.ndarray, merged_windows: np.ndarray, radius_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (i, j), i < j, without a common window, within ``radius_px``, each the nearest of the other."""
    pairs = close_pairs(xy, radius_px)
    first, second = merged_windows[pairs[:, 0], :, None], merged_windows[pairs[:, 1], None, :]
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
    """Resolves seams in a stream: takes reports, window after window, and returns the numbers of those that are kept.

    Reports are numbered in their order, from 0. The positions of two rows of windows are held in memory.

    Args:
        grid: the window grid.
        mpp: um per work pixel.

    Attributes:
        n_decided: number below which all reports have been returned or dropped.
    """

    def __init__(self, grid: WindowGrid, mpp: float):
        self.grid, self.mpp, self.n_decided = grid, mpp, 0
        self._n_added = 0
        self._row, self._waiting = -1, []  # reports of the current row of windows
        self._row_above, self._above = -2, None

    def add(self, xy: np.ndarray, window: np.ndarray) -> np.ndarray:
        """Add reports at ``xy`` (N, 2) in work by ``window`` (N,), ascending, of any number of windows.

        Returns:
            (n,) int64 numbers that are final: window by window, and within a window by y and then x.
        """
        number = np.arange(self._n_added, self._n_added + len(window))
        self._n_added += len(window)
        merged_windows = np.full((len(window), 4), -1, np.int32)
        merged_windows[:, 0] = window
        reports = Reports(xy, window, number, merged_windows)
        rows = window // self.grid.shape[1]
        final = []
        for row in np.unique(rows).tolist():
            if row != self._row:
                final += self._close_row()
                self._row = row
            self._waiting.append(reports[rows == row])
        return np.concatenate([_NONE, *final])

    def finish(self) -> np.ndarray:
        """Numbers of the remaining nuclei after the last window."""
        final = self._close_row()
        if self._above is not None:
            final.append(self._settle(self._above))
        self.n_decided, self._above = self._n_added, None
        return np.concatenate([_NONE, *final])

    def _close_row(self) -> list[np.ndarray]:
        """Resolve the seams of the complete row and return the final numbers of the row above it."""
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
