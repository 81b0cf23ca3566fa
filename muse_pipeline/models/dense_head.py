"""The dense nucleus head: a centre map whose peaks are nuclei, with offset, class and outline at every cell."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from muse_pipeline.models import HEADS
from muse_pipeline.models.heads import MEAN_RADIUS_UM, PRIOR, NucleusHead, NucleusMaps
from muse_pipeline.models.layers import conv_norm


@HEADS.register("dense")
class DenseHead(NucleusHead):
    """One shared 3x3 convolution, then a 1x1 convolution for all quantities."""

    def __init__(self, in_channels: int, n_classes: int, n_rays: int, hidden: int = 96):
        super().__init__()
        self.sizes = (1, 2, n_classes, n_rays)
        self.shared = nn.Sequential(conv_norm(in_channels, hidden), nn.ReLU(inplace=True))
        self.out = nn.Conv2d(hidden, sum(self.sizes), 1)
        nn.init.normal_(self.out.weight, std=0.01)
        nn.init.zeros_(self.out.bias)
        with torch.no_grad():
            self.out.bias[0] = -math.log(1 / PRIOR - 1)
            self.out.bias[-n_rays:] = math.log(math.expm1(MEAN_RADIUS_UM))

    def forward(self, features: Tensor) -> NucleusMaps:
        """(B, D, h, w) -> four maps."""
        maps = self.out(self.shared(features)).float()  # losses and read-out stay exact in mixed precision
        centre, offset, label, rays = maps.split(self.sizes, 1)
        return NucleusMaps(centre, offset, label, nn.functional.softplus(rays))

    def scores(self, maps: NucleusMaps) -> Tensor:
        """The centre map at its peaks among 3 x 3 cells."""
        peak = maps.centre == nn.functional.max_pool2d(maps.centre, 3, stride=1, padding=1)
        return torch.where(peak, maps.centre.sigmoid(), torch.zeros_like(maps.centre))
