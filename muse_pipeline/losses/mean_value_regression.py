"""PSM's plainest task: say the mean pixel value of a window (release)."""

from __future__ import annotations

from torch import Tensor


def mean_value_regression(output: Tensor, pixels: Tensor) -> Tensor:
    """Mean squared error of the mean value, in shares of white.

    Args:
        output: (B, 1).
        pixels: (B, 3, H, W), 0 to 255.
    """
    return (output[:, 0] - pixels.mean((1, 2, 3)) / 255).square().mean()
