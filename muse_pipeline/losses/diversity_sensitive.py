"""Diversity of a conditional generator's pictures under different noise (Yang et al., ICLR 2019, arXiv 1901.09024)."""

from __future__ import annotations

from torch import Tensor


def diversity_loss(first: Tensor, second: Tensor, noise: Tensor, other_noise: Tensor, limit: float) -> Tensor:
    """``-E min(|G(x, z1) - G(x, z2)|_1 / |z1 - z2|_1, limit)`` (equation 2), both norms as means over values.

    Args:
        first: (B, 3, H, W) pictures of masks with noise z1, -1 to 1.
        second: (B, 3, H, W) pictures of the same masks with z2.
        noise: (B, Z) z1.
        other_noise: (B, Z) z2.
        limit: largest ratio that is rewarded.
    """
    apart = (first - second).abs().flatten(1).mean(1)
    return -(apart / ((noise - other_noise).abs().mean(1) + 1e-8)).clamp(max=limit).mean()
