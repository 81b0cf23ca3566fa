"""The dense nucleus head: a centre map whose peaks are nuclei, with place, class and outline at every cell."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from muse_pipeline.models import HEADS
from muse_pipeline.models.heads import MEAN_RAY, PRIOR, NucleusHead, NucleusMaps, as_rows, own_places, to_rays
from muse_pipeline.models.layers import conv_norm

HIDDEN = (64, 96)  # least and most channels: at stride 4 they are dear
AROUND = 3  # cells across, among which a peak is the best and over which places are averaged


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

    def places(self, maps: NucleusMaps) -> Tensor:
        """What the 3 x 3 cells around say, on average."""
        return _mean_places(maps.centre, maps.offset)

    def propose(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Centre and offset alone are computed at every cell; the rest waits until it is known which cells speak."""
        rows = as_rows(self.shared(features))
        said = torch.matmul(rows, self.out.weight[:3, :, 0, 0].T) + self.out.bias[:3]
        batch, _, height, width = features.shape
        centre, offset = said.view(batch, height, width, 3).permute(0, 3, 1, 2).split((1, 2), 1)
        return _scores_at_peaks(centre), _mean_places(centre, offset), rows

    def describe(self, cells: Tensor) -> tuple[Tensor, ...]:
        """The other channels of the last convolution, as one matrix product."""
        said = torch.matmul(cells, self.out.weight[3:, :, 0, 0].T) + self.out.bias[3:]
        label, rays = said.split(self.sizes, 2)
        return label, to_rays(rays)


def _scores_at_peaks(centre: Tensor) -> Tensor:
    peak = centre == nn.functional.max_pool2d(centre, AROUND, stride=1, padding=AROUND // 2)
    return torch.where(peak, centre.sigmoid(), torch.zeros_like(centre))


def _mean_places(centre: Tensor, offset: Tensor) -> Tensor:
    """By the fourth power of the score: where two cells speak almost alike, it matters little which is louder."""
    weight = centre.sigmoid().square().square()
    weighted = torch.cat((own_places(offset) * weight, weight), 1)
    x_and_y, total = nn.functional.avg_pool2d(weighted, AROUND, stride=1, padding=AROUND // 2).split((2, 1), 1)
    return x_and_y / total.clamp(min=torch.finfo(total.dtype).tiny)
