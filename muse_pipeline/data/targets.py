"""Dense targets on the stride-4 map, computed from points on the training device."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from torch import Tensor

REACH_CELLS = 1.0  # a cell is a target for the nearest nucleus if that is no further away
REACH_SIGMAS = 5.0  # distance at which a Gaussian is cut off; its value there is 4e-6


class DenseTargets(NamedTuple):
    """Targets of each of the (h, w) cells.

    Attributes:
        centre: (B, 1, h, w) Gaussians, exactly 1 in the cell that contains a centre.
        weight: (B, 1, h, w) weight of the other targets: the Gaussian within reach of a centre, 0 elsewhere.
        offset: (B, 2, h, w) vector to the nearest centre, in cells; arbitrary beyond the Gaussians.
        nucleus: (B, h, w) index of the nearest of the M nuclei, -1 beyond the Gaussians.
    """

    centre: Tensor
    weight: Tensor
    offset: Tensor
    nucleus: Tensor


def dense_targets(xy: Tensor, cells: tuple[int, int], cell_px: int, sigma_px: float) -> DenseTargets:
    """Targets of B windows of (rows, columns) = ``cells``.

    Args:
        xy: (B, M, 2) window px of the nuclei.
        cells: rows and columns of the map.
        cell_px: pixels per cell.
        sigma_px: standard deviation of the Gaussians.
    """
    nucleus = _nearest(xy, cells, cell_px, math.ceil(REACH_SIGMAS * sigma_px / cell_px))  # (B, h * w)
    y, x = (torch.arange(n, device=xy.device, dtype=xy.dtype) + 0.5 for n in cells)
    middle = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(1, -1, 2)
    offset = (xy / cell_px).gather(1, nucleus.clamp(min=0)[..., None].expand(-1, -1, 2)) - middle
    distance = offset.norm(dim=2)
    holds = ((offset >= -0.5) & (offset < 0.5)).all(2)
    gaussian = torch.exp(-0.5 * (distance * cell_px / sigma_px) ** 2)
    gaussian = torch.where(holds, torch.ones_like(gaussian), gaussian.clamp(max=0.999)) * (nucleus >= 0)
    near = (distance <= REACH_CELLS) | holds
    centre, weight, nucleus = (values.unflatten(1, cells) for values in (gaussian, gaussian * near, nucleus))
    return DenseTargets(centre[:, None], weight[:, None], offset.transpose(1, 2).unflatten(2, cells), nucleus)


def _nearest(xy: Tensor, cells: tuple[int, int], cell_px: int, reach: int) -> Tensor:
    """(B, h * w): the nearest nucleus within ``reach`` cells, the first of equals, -1 for none.

    Each nucleus is compared with the few cells around it; comparing all pairs took a fifth of a training step.
    """
    n_cells, columns = cells[0] * cells[1], cells[1]
    index, exists = cells_around(xy, cells, cell_px, reach)  # (B, M, K)
    middle = torch.stack((index % columns, index // columns), -1) + 0.5
    squared = ((xy / cell_px)[:, :, None] - middle).square().sum(-1).flatten(1)
    index = index.where(exists, n_cells).flatten(1)  # cells beyond the border share an extra index, which is cut off
    least = squared.new_full((len(xy), n_cells + 1), torch.inf).scatter_reduce_(1, index, squared, "amin")
    number = torch.arange(xy.shape[1], device=xy.device)[:, None].expand(exists.shape[1:]).flatten()
    number = number.where(squared == least.gather(1, index), xy.shape[1])
    first = index.new_full(least.shape, xy.shape[1]).scatter_reduce_(1, index, number, "amin")[:, :n_cells]
    return first.where(first < xy.shape[1], -1)


UNMATCHED = 1e6  # cost of leaving a nucleus without a proposal: done only where there are too few


class Assignment(NamedTuple):
    """P pairs, in order of windows and nuclei.

    Attributes:
        window: (P,) index of the window.
        nucleus: (P,) index of the nucleus within its window.
        cell: (P,) index of the proposal within its window, row by row.
    """

    window: Tensor
    nucleus: Tensor
    cell: Tensor


def assign(cost: Tensor, cell: Tensor, allowed: Tensor) -> Assignment:
    """The cheapest one-to-one assignment in every window.

    All windows are one sparse problem. Every nucleus has a proposal of its own that stands for none and costs more than
    any real one, so that a solution always exists; nuclei that end there are not in the result.

    Args:
        cost: (B, M, K) cost of giving candidate k to a nucleus.
        cell: (B, M, K) index of the candidate within the window.
        allowed: (B, M, K) bool, True for candidates that may be given to a nucleus.
    """
    n_nuclei = cost.shape[1]
    entry = allowed.flatten(0, 1).cpu().numpy()
    cost, cell = (values.detach().flatten(0, 1).cpu().numpy() for values in (cost, cell))
    nuclei = np.flatnonzero(entry.any(1))
    row, candidate = np.nonzero(entry[nuclei])
    proposal = cell[nuclei[row], candidate].astype(np.int64)
    window = nuclei // max(n_nuclei, 1)
    most = int(proposal.max(initial=0)) + 1
    used, column = np.unique(window[row] * most + proposal, return_inverse=True)
    own = np.arange(len(nuclei))
    weights = cost[nuclei[row], candidate].astype(np.float64)
    weights += 1 - weights.min(initial=0)  # the solver takes no zeros
    problem = csr_matrix(
        (
            np.append(weights, np.full(len(nuclei), UNMATCHED)),
            (np.append(row, own), np.append(column, len(used) + own)),
        ),
        shape=(len(nuclei), len(used) + len(nuclei)),
    )
    matched, column = min_weight_full_bipartite_matching(problem) if len(nuclei) else (own, own)
    real = column < len(used)
    matched, column = matched[real], column[real]
    found = window[matched], nuclei[matched] % max(n_nuclei, 1), used[column] % most if len(used) else column
    return Assignment(*(torch.from_numpy(np.asarray(index, np.int64)).to(allowed.device) for index in found))


def cells_around(xy: Tensor, cells: tuple[int, int], cell_px: int, reach: int) -> tuple[Tensor, Tensor]:
    """The square of cells around the one that holds a nucleus, row by row; the one in the middle is its own.

    Args:
        xy: (B, M, 2) window px.
        cells: rows and columns of the map.
        cell_px: pixels per cell.
        reach: cells to either side, so that K = (2 reach + 1) ** 2.

    Returns:
        (B, M, K) index of each cell, row by row; (B, M, K) bool, False for cells beyond the window's border.
    """
    rows, columns = cells
    steps = torch.arange(-reach, reach + 1, device=xy.device)
    own = (xy / cell_px).floor().clamp(-1e6, 1e6).long()
    column, row = (own[..., axis, None, None] for axis in (0, 1))
    column, row = torch.broadcast_tensors(column + steps, row + steps[:, None])
    exists = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    index = row.clamp(0, rows - 1) * columns + column.clamp(0, columns - 1)
    return index.flatten(2), exists.flatten(2)
