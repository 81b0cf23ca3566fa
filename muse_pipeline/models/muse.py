"""What the MUSE networks have in common: an encoder of four levels, the decoder, and RGB normalised as for ImageNet.

"MUSE" (arXiv 2511.05170); authors' code: alibaba-damo-academy/MUSE (Apache-2.0). Written from its description; names of
modules are those of the released checkpoints (``encoder.encoder.*``, ``decoder.*``), so that weights go both ways.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from muse_pipeline.models.base import Backbone, Features
from muse_pipeline.models.colour import recoloured
from muse_pipeline.models.readout import ALIGNED_CORNERS

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class MuseBackbone(Backbone):
    """Encoder and decoder under the contract of every backbone.

    Args:
        encoder: (B, 3, H, W) -> (four maps, fine to coarse, image vector (B, D')).
        decoder: four maps -> (B, ``decoder.out_channels``, H / 4, W / 4).
        image_channels: D'.
        stride_px: of the encoder.
    """

    lattice = ALIGNED_CORNERS

    def __init__(self, encoder: nn.Module, decoder: nn.Module, image_channels: int, stride_px: int):
        super().__init__()
        self.encoder = nn.ModuleDict({"encoder": encoder})  # doubled, as in the released files
        self.decoder = decoder
        self.channels, self.image_channels, self.stride_px = decoder.out_channels, image_channels, stride_px
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    def prepare(self, pixels: Tensor, colour: Tensor) -> Tensor:
        """RGB after the slide's colour map, normalised with the means and deviations of ImageNet."""
        return (recoloured(pixels, colour) / 255.0 - self.mean) / self.std

    def forward(self, image: Tensor) -> Features:
        """(B, 3, H, W), normalised -> features."""
        levels, vector = self.encoder["encoder"](image)
        return Features(self.decoder(levels), vector)
