"""The contract of every nucleus head: its output at each cell, and the cells that are peaks."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

PRIOR = 0.05  # share of cells that hold a centre in dense tissue: where scores start
MEAN_RADIUS_UM = 4.0  # where rays start
STEEPNESS = 3.0  # how much of a ray a step of the optimiser may change
MEAN_RAY = math.log(math.e - 1) / STEEPNESS  # what ``to_rays`` makes a ray of ``MEAN_RADIUS_UM``
LEAST_INVERSE_SQUARE = 0.01  # in units of the mean radius: no ray is longer than 40 um


def to_rays(raw: Tensor) -> Tensor:
    """Rays in um from the output of a head, which is their inverse square.

    For an ellipse that is one wave over the angles, ``p + q cos(2 (angle - axis))``, which few features describe.
    The same wave in the rays themselves is a dumb-bell, which heads that predict rays give slender nuclei.
    """
    inverse_square = softplus(STEEPNESS * raw)
    return MEAN_RADIUS_UM * inverse_square.clamp(min=LEAST_INVERSE_SQUARE).rsqrt()


def softplus(x: Tensor) -> Tensor:
    """ln(1 + e^x), by operations that ONNX Runtime has vectorised: its own Softplus takes four times as long."""
    size = x.abs()
    return 0.5 * (x + size) + torch.log(1 + torch.exp(-size))


class NucleusMaps(NamedTuple):
    """Output of a head at every cell of an (h, w) map, whose cell (row, column) is centred on px ``4 * column + 2``.

    Attributes:
        centre: (B, 1, h, w) logit that the cell is a nucleus.
        offset: (B, 2, h, w) vector from the cell's centre to the nucleus' centre, (x, y) in cells.
        label: (B, C, h, w) class logits, given that it is a nucleus.
        rays: (B, R, h, w) um.
    """

    centre: Tensor
    offset: Tensor
    label: Tensor
    rays: Tensor


class NucleusHead(nn.Module):
    """Base class of heads, which are built from (in_channels, n_classes, n_rays).

    Attributes:
        sizes: channels of label and rays.
    """

    sizes: tuple[int, int]

    def forward(self, features: Tensor) -> NucleusMaps:
        """(B, D, h, w), read at the centres of the cells -> four maps, float32."""
        raise NotImplementedError

    def scores(self, maps: NucleusMaps) -> Tensor:
        """(B, 1, h, w): the score of each nucleus at its peak, 0 elsewhere."""
        raise NotImplementedError

    def propose(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, D, h, w) -> scores; centre and offset (B, 3, h, w), for ``locate``; (B * h * w, M), for ``describe``."""
        maps = self(features)
        located = torch.cat((maps.centre, maps.offset), 1)
        return self.scores(maps), located, as_rows(torch.cat((maps.label, maps.rays), 1))

    def locate(self, located: Tensor, cell: Tensor) -> Tensor:
        """Positions (B, K, 2), (x, y) in cells, of the nuclei whose peaks are the cells of these numbers (B, K)."""
        positions = predicted_positions(located[:, 1:])
        return pick(as_rows(positions), cell, positions.shape[-2] * positions.shape[-1])

    def describe(self, cells: Tensor) -> tuple[Tensor, ...]:
        """(B, K, M), rows of ``propose`` -> their label (B, K, C) and rays (B, K, R)."""
        return cells.split(self.sizes, 2)


def predicted_positions(offset: Tensor) -> Tensor:
    """(B, 2, h, w) offsets -> position of the nucleus predicted by each cell alone, (x, y) in cells."""
    rows, columns = offset.shape[-2:]
    x = torch.arange(columns, device=offset.device) + 0.5
    y = torch.arange(rows, device=offset.device)[:, None] + 0.5
    return torch.stack((offset[:, 0] + x, offset[:, 1] + y), 1)


def as_rows(maps: Tensor) -> Tensor:
    """(B, M, h, w) -> (B * h * w, M), with the values of a cell side by side, which makes picking a few cells fast."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


def pick(rows: Tensor, cell: Tensor, n_cells: int) -> Tensor:
    """The rows (B, ..., M), out of (B * n_cells, M), of the cells of these numbers (B, ...), counted per window."""
    first = n_cells * torch.arange(cell.shape[0], device=cell.device)  # row of each window's first cell
    return rows[cell + first.view(-1, *(1,) * (cell.dim() - 1))]
