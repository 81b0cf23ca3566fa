"""Windows, batches and shards of a store.

A window of ``input_px`` has a central core; the rest is halo. Cores are half open and tile the
plane, so that each position is in exactly one core. Windows that contain tissue, numbered row by
row, form fixed batches; a shard is a run of whole batches. Windows and batches depend only on the
slide and the model card, not on the number of shards, CPU cores or machines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from muse_pipeline.core.errors import ConfigError


@dataclass(frozen=True)
class WindowPart:
    """The part of a window on which the model runs, in pixels from the window's corner."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class WindowGrid:
    """A fixed grid of windows over a work lattice."""

    size_px: tuple[int, int]  # (width, height) of the lattice
    input_px: int  # side of a window
    halo_px: int  # width of the margin on each side of the core
    # shift of the whole grid to the top left; set only by tests, to check that it has no effect
    offset_px: int = 0

    @property
    def core_px(self) -> int:
        """Side of a core."""
        return self.input_px - 2 * self.halo_px

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of windows."""
        width, height = self.size_px
        return -(-(height + self.offset_px) // self.core_px), -(
            -(width + self.offset_px) // self.core_px
        )

    def core_xy(self, window: ndarray | int) -> ndarray:
        """Top left corners (..., 2) of the cores of ``window``, in work pixels."""
        row, column = np.divmod(window, self.shape[1])
        return np.stack([column, row], -1) * self.core_px - self.offset_px

    def origin_xy(self, window: ndarray | int) -> ndarray:
        """Top left corners (..., 2) of the windows themselves; may be negative."""
        return self.core_xy(window) - self.halo_px

    def depth_px(self, xy: ndarray, window: ndarray | int) -> ndarray:
        """Distance (N,) of positions (N, 2) to the nearest edge of the core of ``window``; negative
        outside it.
        """
        inside = np.asarray(xy) - self.core_xy(window)
        return np.minimum(inside, self.core_px - inside).min(-1)

    def owns(self, xy: ndarray, window: ndarray | int) -> ndarray:
        """True for positions (N, 2) in the half-open cores of ``window``."""
        inside = np.asarray(xy) - self.core_xy(window)
        return ((inside >= 0) & (inside < self.core_px)).all(-1)

    def windows_with_tissue(self, tissue: ndarray, tissue_px: float) -> ndarray:
        """Indices, ascending, of the windows whose core touches ``tissue`` (h, w) bool.

        A mask pixel has a side of ``tissue_px`` work pixels; mask and lattice have the same corner.
        """
        touched = np.zeros(self.shape, bool)
        vertical = self._mask_spans(self.shape[0], tissue.shape[0], tissue_px)
        left, right = self._mask_spans(self.shape[1], tissue.shape[1], tissue_px)
        for row, (top, bottom) in enumerate(zip(*vertical, strict=True)):
            n_before = np.append(0, tissue[top:bottom].any(0).cumsum())
            touched[row] = n_before[right] > n_before[left]
        return np.flatnonzero(touched)

    def touches(self, windows: ndarray, low_xy: ndarray, high_xy: ndarray) -> ndarray:
        """True for ``windows`` (N,) whose cores touch the rectangle from ``low_xy`` to ``high_xy``
        in work pixels.
        """
        core_xy = self.core_xy(windows)
        return ((core_xy < high_xy) & (core_xy + self.core_px > low_xy)).all(-1)

    def field_of_view(self, low_xy: ndarray, high_xy: ndarray) -> tuple[ndarray, ndarray]:
        """The rectangle (low, high) that is read to find all nuclei in the rectangle ``low_xy`` to
        ``high_xy``.
        """
        first, last = (np.asarray(xy) + self.offset_px for xy in (low_xy, high_xy))
        low = first // self.core_px * self.core_px - self.offset_px - self.halo_px
        high = -(-last // self.core_px) * self.core_px - self.offset_px + self.halo_px
        return low, high

    @property
    def whole(self) -> WindowPart:
        """The whole window as a part."""
        return WindowPart(0, 0, self.input_px, self.input_px)

    def part(
        self, windows: ndarray, tissue: ndarray, tissue_px: float, stride_px: int
    ) -> WindowPart:
        """The smallest part, the same in all ``windows``, that contains their ``tissue`` with a
        halo around it.

        It ends at the edge of the lattice, because what lies beyond the edge of a picture is not
        known. Its corner and sides are multiples of ``stride_px``. For the tissue, see
        ``windows_with_tissue``.
        """
        boxes = np.array(
            [self._tissue_box(window, tissue, tissue_px) for window in windows.tolist()]
        )
        lattice = -self.origin_xy(windows)
        low = np.maximum(boxes[:, 0] - self.halo_px, lattice).min(0) // stride_px * stride_px
        high = (
            -(-np.minimum(boxes[:, 1] + self.halo_px, lattice + self.size_px).max(0) // stride_px)
            * stride_px
        )
        return WindowPart(*low.astype(int).tolist(), *(high - low).astype(int).tolist())

    def part_xy(self, window: ndarray | int, part: WindowPart) -> ndarray:
        """Top left corners (..., 2) of the ``part`` of ``window``, in work pixels; may be
        negative.
        """
        return self.origin_xy(window) + np.array([part.x, part.y])

    def _tissue_box(self, window: int, tissue: ndarray, tissue_px: float) -> ndarray:
        """Minimum and maximum (x, y) of the tissue in the core of ``window``, in pixels from the
        window's corner.
        """
        core, origin = self.core_xy(window), self.origin_xy(window)
        left, top = np.maximum(np.floor(core / tissue_px), 0).astype(int)
        right, bottom = np.ceil((core + self.core_px) / tissue_px).astype(int)
        rows, columns = np.nonzero(tissue[top:bottom, left:right])
        least = np.array([left + columns.min(), top + rows.min()]) * tissue_px - origin
        most = np.array([left + columns.max() + 1, top + rows.max() + 1]) * tissue_px - origin
        return np.stack([least, most]).clip(self.halo_px, self.halo_px + self.core_px)

    def _mask_spans(self, n_windows: int, n_mask: int, mask_px: float) -> tuple[ndarray, ndarray]:
        """First mask pixel that each core touches along one axis, and the pixel after the last,
        (n_windows,) each.
        """
        start_px = np.arange(n_windows) * self.core_px - self.offset_px
        # A floor with a tolerance, so that a core that starts at the edge of a pixel does not touch
        # the previous pixel.
        first = np.ceil((start_px + 1e-6) / mask_px).astype(int) - 1
        stop = np.ceil((start_px + self.core_px) / mask_px).astype(int)
        return first.clip(0, n_mask), stop.clip(0, n_mask)


@dataclass(frozen=True)
class Shard:
    """Shard ``index`` (from 1) of ``count``."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``i-of-n``."""
        match = re.fullmatch(r"(\d+)-of-(\d+)", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise ConfigError(f"shard '{text}': expected i-of-n with 1 <= i <= n, as in 2-of-7")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}-of-{self.count}"

    def batches(self, windows: ndarray, batch: int) -> list[ndarray]:
        """This shard's run of the fixed batches of ``windows``; may be empty if there are fewer
        batches than shards.
        """
        whole = [windows[i : i + batch] for i in range(0, len(windows), batch)]
        start, stop = (len(whole) * i // self.count for i in (self.index - 1, self.index))
        return whole[start:stop]
