"""Which positions are close to one another."""

from __future__ import annotations

import numpy as np


def close_pairs(xy: np.ndarray, radius: float) -> np.ndarray:
    """Pairs (P, 2), i < j, of positions (N, 2) at most ``radius`` apart, in no particular order.

    Positions are sorted into cells; whatever is close to one lies in its own cell or in one beside it. (SciPy has a
    tree for this, but loading it takes as long as stitching 5 mm2.)
    """
    if len(xy) < 2:
        return np.zeros((0, 2), int)
    column, row = np.floor((xy - xy.min(axis=0)) / (2 * radius)).astype(np.int64).T
    n_columns = column.max() + 2  # one that stays empty, so that no cell is beside one at the other end
    cell = row * n_columns + column
    order = np.argsort(cell, kind="stable")
    cell = cell[order]
    here = np.arange(len(cell))
    # To be compared with each position: those after it in its own cell and the next, and three cells of the next row.
    start = np.concatenate([here + 1, np.searchsorted(cell, cell + n_columns - 1)])
    stop = np.searchsorted(cell, np.concatenate([cell + 1, cell + n_columns + 1]), side="right")
    n_others = stop - start
    nth = np.arange(n_others.sum()) - np.repeat(np.cumsum(n_others) - n_others, n_others)
    first, second = np.repeat(np.tile(here, 2), n_others), np.repeat(start, n_others) + nth
    pairs = np.sort(order[np.stack([first, second], axis=1)], axis=1)
    return pairs[((xy[pairs[:, 0]] - xy[pairs[:, 1]]) ** 2).sum(axis=1) <= radius**2]
