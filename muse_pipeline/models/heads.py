"""The contract of every nucleus head: what it says at each cell, and which cells speak for a nucleus."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

PRIOR = 0.05  # share of cells that hold a centre in dense tissue: where scores start
MEAN_RADIUS_UM = 4.0  # where rays start


class NucleusMaps(NamedTuple):
    """What a head says at every cell of an (h, w) map, whose cell (row, column) is centred on px ``4 * column + 2``.

    Attributes:
        centre: (B, 1, h, w) logit that the cell speaks for a nucleus.
        offset: (B, 2, h, w) from the cell's centre to the nucleus' centre, (x, y) in cells.
        label: (B, C, h, w) class logits, given that it is a nucleus.
        rays: (B, R, h, w) um.
    """

    centre: Tensor
    offset: Tensor
    label: Tensor
    rays: Tensor


class NucleusHead(nn.Module):
    """Built from (in_channels, n_classes, n_rays).

    Attributes:
        sizes: channels of offset, label and rays.
    """

    sizes: tuple[int, int, int]

    def forward(self, features: Tensor) -> NucleusMaps:
        """(B, D, h, w), read at the centres of the cells -> four maps, float32."""
        raise NotImplementedError

    def scores(self, maps: NucleusMaps) -> Tensor:
        """(B, 1, h, w): the score of each nucleus in the one cell that speaks for it, 0 elsewhere."""
        raise NotImplementedError

    def propose(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D, h, w) -> the scores and (B, M, h, w) what ``describe`` needs of a cell that speaks."""
        maps = self(features)
        return self.scores(maps), torch.cat((maps.offset, maps.label, maps.rays), 1)

    def describe(self, cells: Tensor) -> tuple[Tensor, ...]:
        """(B, M, K) of ``propose`` at K cells -> their offset (B, 2, K), label (B, C, K) and rays (B, R, K)."""
        return cells.split(self.sizes, 1)
