"""A backbone that says of every pixel whether it is nucleus."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from muse_pipeline.core.coords import CELL_PX
from muse_pipeline.models import BACKBONES
from muse_pipeline.models.layers import conv_norm

PRIOR = 0.2  # share of nuclei in tissue: where probabilities start


class MaskNetwork(nn.Module):
    """Every cell of the dense map speaks for its own 4 x 4 pixels: a light head, without another decoder.

    Args:
        backbone: registered name.
        hidden: channels of the head.
    """

    def __init__(self, backbone: str, hidden: int = 48):
        super().__init__()
        self.backbone = BACKBONES[backbone]()
        self.head = nn.Sequential(
            conv_norm(self.backbone.channels, hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, CELL_PX**2, 1),
            nn.PixelShuffle(CELL_PX),
        )
        nn.init.normal_(self.head[2].weight, std=0.01)
        nn.init.constant_(self.head[2].bias, -math.log(1 / PRIOR - 1))

    def forward(self, pixels: Tensor, colour: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..255 and (3, 4) or (B, 3, 4) -> (B, H, W) float32 logit of nucleus."""
        dense = self.backbone(self.backbone.prepare(pixels, colour)).dense
        return self.head(self.backbone.lattice.at_cells(dense))[:, 0].float()

    @torch.no_grad()
    def probability(self, pixels: Tensor, colour: Tensor) -> Tensor:
        """(H, W), 0 to 1, of one picture (3, H, W) of any size; beyond its border it is continued by its edge."""
        height, width = pixels.shape[1:]
        stride = self.backbone.stride_px
        framed = pad(pixels[None].float(), (0, -width % stride, 0, -height % stride), mode="replicate")
        return self(framed, colour)[0, :height, :width].sigmoid()
