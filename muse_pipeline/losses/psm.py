"""Loss of PSM (arXiv 2210.07862)."""

from __future__ import annotations

from torch import Tensor


def rotation_similarity(output: Tensor, turned: Tensor) -> Tensor:
    """Mean of ``|f(x) - f(rot180 x)|``; a constant f solves it, and nothing prevents that.

    Args:
        output: (B, D) of windows.
        turned: (B, D) of the same windows turned by 180 degrees.
    """
    return (output - turned).abs().mean()
