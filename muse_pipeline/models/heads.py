"""The dense nucleus head: a centre map with offset, class and outline at every cell of the stride-4 map."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from muse_pipeline.models.layers import conv_norm

PRIOR = 0.05  # share of cells that hold a centre in dense tissue: where the centre map starts
MEAN_RADIUS_UM = 4.0  # where the rays start


class DenseNuclei(NamedTuple):
    """What the head says at every cell of an (h, w) map.

    Attributes:
        centre: (B, 1, h, w) logit that a nucleus centre lies in or next to the cell.
        offset: (B, 2, h, w) from the cell's centre to the nucleus' centre, (x, y) in cells.
        label: (B, C, h, w) class logits.
        rays: (B, R, h, w) um.
    """

    centre: Tensor
    offset: Tensor
    label: Tensor
    rays: Tensor


class DenseNucleusHead(nn.Module):
    """One shared 3x3 convolution, then a 1x1 convolution per quantity."""

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

    def forward(self, features: Tensor) -> DenseNuclei:
        """(B, D, h, w) -> four maps."""
        maps = self.out(self.shared(features)).float()  # losses and read-out stay exact in mixed precision
        centre, offset, label, rays = maps.split(self.sizes, 1)
        return DenseNuclei(centre, offset, label, nn.functional.softplus(rays))
