"""PSM's rotation task: say as a number by how many quarter turns a window was turned (release)."""

from __future__ import annotations

from torch import Tensor


def rotation_regression(output: Tensor, quarter_turns: Tensor) -> Tensor:
    """Mean squared error of the number of quarter turns.

    Args:
        output: (B, 1).
        quarter_turns: (B,) 0 to 3.
    """
    return (output[:, 0] - quarter_turns).square().mean()
