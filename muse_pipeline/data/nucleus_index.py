"""Nucleus positions of one image, found by place: in memory, or in three files that are mapped and never read whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from muse_pipeline.files import complete_file

CELL_UM = 64.0
FILES = ("xy", "occupied", "start")


@dataclass(frozen=True, eq=False)
class NucleusIndex:
    """Positions in the order of the square cells that they lie in.

    Attributes:
        cell_px: side of a cell.
        n_columns: cells per row.
        xy: (N, 2) float32 image px.
        occupied: (C,) int64 numbers, row by row, of the cells that hold a nucleus; rising.
        start: (C + 1,) int64, where the nuclei of each occupied cell begin in ``xy``.
    """

    cell_px: float
    n_columns: int
    xy: np.ndarray
    occupied: np.ndarray
    start: np.ndarray

    @classmethod
    def build(cls, xy: np.ndarray, size_px: tuple[int, int], mpp: float) -> NucleusIndex:
        """The index of (N, 2) positions in an image of ``size_px`` = (width, height); those outside it are dropped."""
        xy = np.asarray(xy, np.float64).reshape(-1, 2)
        xy = xy[((xy >= 0) & (xy < size_px)).all(1)].astype(np.float32)
        cell_px, n_columns = _cells(size_px, mpp)
        column, row = np.floor(xy / cell_px).astype(np.int64).T
        number = row * n_columns + column.clip(max=n_columns - 1)  # rounding may reach the right border
        order = np.lexsort((xy[:, 0], xy[:, 1], number))  # of equal positions any order will do
        occupied, first = np.unique(number[order], return_index=True)
        return cls(cell_px, n_columns, xy[order], occupied, np.append(first, len(xy)).astype(np.int64))

    @classmethod
    def open(cls, folder: Path, size_px: tuple[int, int], mpp: float, mapped: bool = True) -> NucleusIndex:
        """The index that ``save`` wrote; ``mapped`` keeps its files open, and else they are read."""
        how = "r" if mapped else None
        return cls(*_cells(size_px, mpp), *(np.load(folder / f"{name}.npy", mmap_mode=how) for name in FILES))

    def save(self, folder: Path) -> None:
        """Write the files into a folder, which appears whole.

        Raises:
            OutputError: it cannot be written.
        """
        with complete_file(folder) as partial:
            partial.mkdir()
            for name in FILES:
                np.save(partial / f"{name}.npy", getattr(self, name))

    def inside(self, left: float, top: float, right: float, bottom: float) -> tuple[np.ndarray, np.ndarray]:
        """Numbers (M,) and positions (M, 2) float64 of the nuclei in a half-open box of the image, in px."""
        first, last = (max(0, int(side // self.cell_px)) for side in (left, right))
        last = min(last, self.n_columns - 1)
        rows = np.arange(max(0, int(top // self.cell_px)), int(bottom // self.cell_px) + 1) * self.n_columns
        begin = self.start[np.searchsorted(self.occupied, rows + first)]
        end = self.start[np.searchsorted(self.occupied, rows + last, side="right")]
        numbers = np.concatenate([np.zeros(0, np.int64), *map(np.arange, begin, end)])
        xy = self.xy[numbers].astype(np.float64)
        kept = ((xy >= (left, top)) & (xy < (right, bottom))).all(1)
        return numbers[kept], xy[kept]

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """(2,) position of a nucleus: occupied cells are drawn alike, whether few or many lie in them."""
        cell = generator.integers(len(self.occupied))
        return self.xy[generator.integers(self.start[cell], self.start[cell + 1])].astype(np.float64)


def _cells(size_px: tuple[int, int], mpp: float) -> tuple[float, int]:
    cell_px = CELL_UM / mpp
    return cell_px, max(1, int(np.ceil(size_px[0] / cell_px)))
