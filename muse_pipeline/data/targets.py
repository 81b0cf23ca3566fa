"""Dense targets on the stride-4 map, computed from points on the training device."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from muse_pipeline.data.cells import cells_around

REACH_CELLS = 1.0  # a cell speaks for the nearest nucleus if that lies no further than this
BUMP_SIGMAS = 5.0  # a bump ends there, or a little further out: it has 4e-6 of its height left


class DenseTargets(NamedTuple):
    """What each of the (h, w) cells should say.

    Attributes:
        centre: (B, 1, h, w) bumps, exactly 1 in the cell that holds a centre.
        weight: (B, 1, h, w) how much the cell speaks for its nucleus: the bump within reach of a centre, 0 elsewhere.
        offset: (B, 2, h, w) to the nearest centre, in cells; any number where no bump reaches.
        nucleus: (B, h, w) which of the M nuclei is nearest, -1 where no bump reaches.
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
        sigma_px: width of a bump.
    """
    nucleus = _nearest(xy, cells, cell_px, math.ceil(BUMP_SIGMAS * sigma_px / cell_px))  # (B, h * w)
    y, x = (torch.arange(n, device=xy.device, dtype=xy.dtype) + 0.5 for n in cells)
    middle = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(1, -1, 2)
    offset = (xy / cell_px).gather(1, nucleus.clamp(min=0)[..., None].expand(-1, -1, 2)) - middle
    distance = offset.norm(dim=2)
    holds = ((offset >= -0.5) & (offset < 0.5)).all(2)
    bump = torch.exp(-0.5 * (distance * cell_px / sigma_px) ** 2)
    bump = torch.where(holds, torch.ones_like(bump), bump.clamp(max=0.999)) * (nucleus >= 0)
    near = (distance <= REACH_CELLS) | holds
    centre, weight, nucleus = (values.unflatten(1, cells) for values in (bump, bump * near, nucleus))
    return DenseTargets(centre[:, None], weight[:, None], offset.transpose(1, 2).unflatten(2, cells), nucleus)


def _nearest(xy: Tensor, cells: tuple[int, int], cell_px: int, reach: int) -> Tensor:
    """(B, h * w): the nearest of the nuclei that lie within ``reach`` cells, the first of equals, -1 for none.

    Each nucleus asks the few cells around it. Every cell asking every nucleus took a fifth of a training step.
    """
    n_cells, columns = cells[0] * cells[1], cells[1]
    index, exists = cells_around(xy, cells, cell_px, reach)  # (B, M, K)
    middle = torch.stack((index % columns, index // columns), -1) + 0.5
    squared = ((xy / cell_px)[:, :, None] - middle).square().sum(-1).flatten(1)
    index = index.where(exists, n_cells).flatten(1)  # cells beyond the border are one more cell, which is cut off
    least = squared.new_full((len(xy), n_cells + 1), torch.inf).scatter_reduce_(1, index, squared, "amin")
    number = torch.arange(xy.shape[1], device=xy.device)[:, None].expand(exists.shape[1:]).flatten()
    number = number.where(squared == least.gather(1, index), xy.shape[1])
    first = index.new_full(least.shape, xy.shape[1]).scatter_reduce_(1, index, number, "amin")[:, :n_cells]
    return first.where(first < xy.shape[1], -1)
