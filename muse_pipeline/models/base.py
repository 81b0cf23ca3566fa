"""The contract of every backbone: a dense map at stride 4 and a vector for the whole window."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from muse_pipeline.models.colour import optical_density
from muse_pipeline.models.readout import HALF_PIXEL, Lattice


class Features(NamedTuple):
    """What a backbone says about B windows of H x W px.

    Attributes:
        dense: (B, D, H / 4, W / 4).
        image: (B, D').
    """

    dense: Tensor
    image: Tensor


class Backbone(nn.Module):
    """Encoder-decoder that heads, probes and pretraining share.

    Attributes:
        channels: D, of the dense map.
        image_channels: D', of the image vector.
        stride_px: sides of a window must be multiples of it.
        lattice: how positions tie to the dense map; by ``HALF_PIXEL``, the same is seen in windows of any sides.
    """

    channels: int
    image_channels: int
    stride_px: int
    lattice: Lattice = HALF_PIXEL

    def prepare(self, pixels: Tensor, colour: Tensor) -> Tensor:
        """What the network reads: optical density after the slide's colour map, unless a backbone says otherwise.

        Args:
            pixels: (B, 3, H, W), 0 to 255.
            colour: (3, 4) for all or (B, 3, 4), see ``models.colour``.
        """
        return optical_density(pixels, colour)

    def forward(self, image: Tensor) -> Features:
        """(B, 3, H, W) as ``prepare`` gives it -> features."""
        raise NotImplementedError

    def fix_size(self, height: int, width: int) -> None:
        """Make constants of what depends on the window's size (px), before an export; nothing by default."""
