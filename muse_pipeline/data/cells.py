"""The cells of a map that lie around a nucleus."""

from __future__ import annotations

import torch
from torch import Tensor


def cells_around(xy: Tensor, cells: tuple[int, int], cell_px: int, reach: int) -> tuple[Tensor, Tensor]:
    """The square of cells around the one that holds a nucleus, row by row; the one in the middle is its own.

    Args:
        xy: (B, M, 2) window px.
        cells: rows and columns of the map.
        cell_px: pixels per cell.
        reach: cells to either side, so that K = (2 reach + 1) ** 2.

    Returns:
        (B, M, K) index of each cell, row by row; (B, M, K) bool, whether it exists: not beyond the window's border.
    """
    rows, columns = cells
    steps = torch.arange(-reach, reach + 1, device=xy.device)
    own = (xy / cell_px).floor().clamp(-1e6, 1e6).long()
    column, row = (own[..., axis, None, None] for axis in (0, 1))
    column, row = torch.broadcast_tensors(column + steps, row + steps[:, None])
    exists = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    index = row.clamp(0, rows - 1) * columns + column.clamp(0, columns - 1)
    return index.flatten(2), exists.flatten(2)
