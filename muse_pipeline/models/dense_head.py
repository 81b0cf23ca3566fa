"""The dense nucleus head: a centre map whose peaks are nuclei, with position, class and outline at every cell."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from muse_pipeline.models import HEADS
from muse_pipeline.models.base import conv_norm
from muse_pipeline.models.heads import MEAN_RAY, PRIOR, NucleusHead, NucleusMaps, as_rows, pick, to_rays

HIDDEN = (64, 96)  # least and most channels: they are expensive at stride 4
FIVE = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))  # (x, y) of a cell and of those beside it
SAME_NUCLEUS_CELLS = 1.0  # across or down: 2 um at 0.5 um/px
LEAST_WEIGHT = 1e-12


@HEADS.register("dense")
class DenseHead(NucleusHead):
    """One shared 3x3 convolution to about twice the channels, then a 1x1 convolution for all quantities."""

    def __init__(self, in_channels: int, n_classes: int, n_rays: int):
        super().__init__()
        self.sizes = (n_classes, n_rays)
        hidden = min(max(2 * in_channels, HIDDEN[0]), HIDDEN[1])
        self.shared = nn.Sequential(conv_norm(in_channels, hidden), nn.ReLU(inplace=True))
        self.out = nn.Conv2d(hidden, 3 + sum(self.sizes), 1)
        nn.init.normal_(self.out.weight, std=0.01)
        nn.init.zeros_(self.out.bias)
        with torch.no_grad():
            self.out.bias[0] = -math.log(1 / PRIOR - 1)
            self.out.bias[-n_rays:] = MEAN_RAY

    def forward(self, features: Tensor) -> NucleusMaps:
        """(B, D, h, w) -> four maps."""
        maps = self.out(self.shared(features)).float()  # losses and read-out stay exact in mixed precision
        centre, offset, label, rays = maps.split((1, 2, *self.sizes), 1)
        return NucleusMaps(centre, offset, label, to_rays(rays))

    def scores(self, maps: NucleusMaps) -> Tensor:
        """The centre map at its peaks among 3 x 3 cells."""
        return _scores_at_peaks(maps.centre)

    def propose(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Centre and offset alone are computed at every cell; the rest only at peaks."""
        rows = as_rows(self.shared(features))
        located = torch.matmul(rows, self.out.weight[:3, :, 0, 0].T) + self.out.bias[:3]
        located = located.unflatten(0, (-1, *features.shape[-2:])).permute(0, 3, 1, 2)
        return _scores_at_peaks(located[:, :1]), located, rows

    def locate(self, located: Tensor, cell: Tensor) -> Tensor:
        """Mean of the cell and its four neighbours, weighted by the fourth power of their scores.

        So the result hardly depends on which of two cells with nearly equal scores is the peak. A neighbour whose
        position is further off belongs to another nucleus and is left out.
        """
        columns = located.shape[-1]
        row = torch.div(cell, columns, rounding_mode="floor")
        column = cell - row * columns
        around = nn.functional.pad(located, (1,) * 4, value=-1e4)  # no peaks beyond the border
        right, down = torch.tensor(FIVE, device=cell.device).T
        wide = columns + 2
        near = ((row + 1) * wide + column + 1)[..., None] + down * wide + right  # (B, K, 5), numbered as in ``around``
        centre, x, y = pick(as_rows(around), near, around.shape[-2] * wide).movedim(-1, 0)
        x, y = x + right, y + down  # from the middle of the cell itself
        apart = torch.stack((x - x[..., :1], y - y[..., :1])).abs().amax(0)
        score = centre.sigmoid()
        weight = score * score * score * score * (apart < SAME_NUCLEUS_CELLS)
        mean = torch.stack((weight * x, weight * y)).sum(-1) / weight.sum(-1).clamp(min=LEAST_WEIGHT)
        return torch.stack((column, row), 2) + 0.5 + mean.movedim(0, 2)

    def describe(self, cells: Tensor) -> tuple[Tensor, ...]:
        """The other channels of the last convolution, as one matrix product."""
        output = torch.matmul(cells, self.out.weight[3:, :, 0, 0].T) + self.out.bias[3:]
        label, rays = output.split(self.sizes, 2)
        return label, to_rays(rays)


def _scores_at_peaks(centre: Tensor) -> Tensor:
    peak = centre == nn.functional.max_pool2d(centre, 3, stride=1, padding=1)
    return torch.where(peak, centre.sigmoid(), torch.zeros_like(centre))
