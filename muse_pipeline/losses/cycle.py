"""Cycle consistency (Zhu et al., ICCV 2017, arXiv 1703.10593), in both directions."""

from __future__ import annotations

from torch import Tensor


def cycle_loss(mask: Tensor, mask_again: Tensor, picture: Tensor, picture_again: Tensor) -> Tensor:
    """``(|S(G(x, z)) - x|_1 + |G(S(y), z') - y|_1) / 2``, means over all values.

    Args:
        mask: (B, 3, H, W) x, -1 to 1.
        mask_again: (B, 3, H, W) S(G(x, z)).
        picture: (B', 3, H, W) y, -1 to 1.
        picture_again: (B', 3, H, W) G(S(y), z').
    """
    return ((mask_again - mask).abs().mean() + (picture_again - picture).abs().mean()) / 2
