"""The contract of every backbone: a dense map at stride 4, a vector for the whole window, and the encoder's stages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from muse_pipeline.models.readout import HALF_PIXEL, Lattice


class Features(NamedTuple):
    """Output of a backbone for B windows of H x W px.

    Attributes:
        dense: (B, D, H / 4, W / 4).
        image: (B, D').
    """

    dense: Tensor
    image: Tensor


class Stage(NamedTuple):
    """Size of one intermediate map of a backbone.

    Attributes:
        stride_px: input pixels per cell.
        channels: of the map.
    """

    stride_px: int
    channels: int


class Backbone(nn.Module):
    """Encoder-decoder that heads, probes and pretraining share.

    Attributes:
        channels: D, of the dense map.
        image_channels: D', of the image vector.
        stride_px: sides of a window must be multiples of it.
        stage_sizes: of the encoder, in the order of ``stage_maps``; a stride is never smaller than the one before it.
        lattice: how positions tie to the dense map; by ``HALF_PIXEL``, the same is seen in windows of any sides.
    """

    channels: int
    image_channels: int
    stride_px: int
    stage_sizes: tuple[Stage, ...]
    lattice: Lattice = HALF_PIXEL

    def prepare(self, pixels: Tensor, colour: Tensor) -> Tensor:
        """Input of the network: by default optical density after the slide's colour map.

        Args:
            pixels: (B, 3, H, W), 0 to 255.
            colour: (3, 4) for all or (B, 3, 4), see ``models.base``.
        """
        return optical_density(pixels, colour)

    def forward(self, image: Tensor) -> Features:
        """(B, 3, H, W) as ``prepare`` gives it -> features."""
        raise NotImplementedError

    def stage_maps(self, image: Tensor) -> Iterator[Tensor]:
        """The encoder's intermediate maps, before any decoder, shallow to deep.

        Each stage is computed when the iterator reaches it: the first three cost nothing of the fourth where the
        encoder is a plain chain.

        Args:
            image: (B, 3, H, W) as ``prepare`` gives it.

        Yields:
            (B, ``channels``, H / ``stride_px``, W / ``stride_px``) for each of ``stage_sizes``.
        """
        raise NotImplementedError

    def fix_size(self, height: int, width: int) -> None:
        """Make constants of what depends on the window's size (px), before an export; nothing by default."""


def optical_density(pixels: Tensor, colour: Tensor) -> Tensor:
    """Take RGB to optical density and through an affine map.

    Args:
        pixels: (B, 3, H, W), 0 to 255.
        colour: (3, 4) for all, or (B, 3, 4): columns 0-2 multiply the density, column 3 is added.

    Returns:
        (B, 3, H, W) float; density is -ln((pixel + 1) / 256).
    """
    return _mapped_density(pixels, colour).clamp(-1.0, 5.0)


def recoloured(pixels: Tensor, colour: Tensor) -> Tensor:
    """The same map for networks that read RGB: (B, 3, H, W), 0 to 255; the identity map changes nothing."""
    return (256.0 * torch.exp(-_mapped_density(pixels, colour)) - 1.0).clamp(0.0, 255.0)


def _mapped_density(pixels: Tensor, colour: Tensor) -> Tensor:
    # Its sign goes into the matrix: a pass over all pixels is dear. White must not: half precision has few values far
    # from 0, and pale tissue is near 0 only as a density.
    negative = torch.log((pixels.to(colour.dtype) + 1.0) * (1.0 / 256.0))
    linear, constant = -colour[..., :3], colour[..., 3]
    if colour.ndim == 2:
        return torch.nn.functional.conv2d(negative, linear[..., None, None], constant)
    return torch.einsum("bij,bjhw->bihw", linear, negative) + constant[..., None, None]
