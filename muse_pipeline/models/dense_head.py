"""The dense nucleus head: a centre map whose peaks are nuclei, with offset, class and outline at every cell."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from muse_pipeline.models import HEADS
from muse_pipeline.models.heads import MEAN_RAY, PRIOR, NucleusHead, NucleusMaps, as_rows, to_rays
from muse_pipeline.models.layers import conv_norm

HIDDEN = (64, 96)  # least and most channels: at stride 4 they are dear


@HEADS.register("dense")
class DenseHead(NucleusHead):
    """One shared 3x3 convolution to about twice the channels, then a 1x1 convolution for all quantities."""

    def __init__(self, in_channels: int, n_classes: int, n_rays: int):
        super().__init__()
        self.sizes = (2, n_classes, n_rays)
        hidden = min(max(2 * in_channels, HIDDEN[0]), HIDDEN[1])
        self.shared = nn.Sequential(conv_norm(in_channels, hidden), nn.ReLU(inplace=True))
        self.out = nn.Conv2d(hidden, 1 + sum(self.sizes), 1)
        nn.init.normal_(self.out.weight, std=0.01)
        nn.init.zeros_(self.out.bias)
        with torch.no_grad():
            self.out.bias[0] = -math.log(1 / PRIOR - 1)
            self.out.bias[-n_rays:] = MEAN_RAY

    def forward(self, features: Tensor) -> NucleusMaps:
        """(B, D, h, w) -> four maps."""
        maps = self.out(self.shared(features)).float()  # losses and read-out stay exact in mixed precision
        centre, offset, label, rays = maps.split((1, *self.sizes), 1)
        return NucleusMaps(centre, offset, label, to_rays(rays))

    def scores(self, maps: NucleusMaps) -> Tensor:
        """The centre map at its peaks among 3 x 3 cells."""
        return _scores_at_peaks(maps.centre)

    def propose(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The centre map alone is computed at every cell; the rest waits until it is known which cells speak."""
        rows = as_rows(self.shared(features))
        centre = torch.matmul(rows, self.out.weight[0, :, 0]).view_as(features[:, :1]) + self.out.bias[0]
        return _scores_at_peaks(centre), rows

    def describe(self, cells: Tensor) -> tuple[Tensor, ...]:
        """The other channels of the last convolution, as one matrix product."""
        said = torch.matmul(cells, self.out.weight[1:, :, 0, 0].T) + self.out.bias[1:]
        offset, label, rays = said.split(self.sizes, 2)
        return offset, label, to_rays(rays)


def _scores_at_peaks(centre: Tensor) -> Tensor:
    peak = centre == nn.functional.max_pool2d(centre, 3, stride=1, padding=1)
    return torch.where(peak, centre.sigmoid(), torch.zeros_like(centre))
