"""Optical density and the slide's colour map, the first layer of every network."""

from __future__ import annotations

import torch
from torch import Tensor


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
