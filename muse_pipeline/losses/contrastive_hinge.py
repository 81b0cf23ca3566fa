"""PSM's contrastive task: a half turn shall change the output less than another window does (release)."""

from __future__ import annotations

from torch import Tensor

MARGIN = 10.0


def contrastive_hinge(output: Tensor, positive: Tensor, negative: Tensor, margin: float = MARGIN) -> Tensor:
    """``max(MSE(f(x), f(positive)) - MSE(f(x), f(negative)) + margin, 0)``, the mean over windows.

    Args:
        output: (B, D) of windows.
        positive: (B, D) of the same windows, turned.
        negative: (B, D) of other windows.
        margin: how much further away the negatives shall be.
    """
    near, far = (output - positive).square().mean(1), (output - negative).square().mean(1)
    return (near - far + margin).clamp(min=0).mean()
