"""PSM's SimSiam-like task: each view's output follows the other's, which has no gradient (release; no predictor)."""

from __future__ import annotations

from torch import Tensor


def detached_similarity(output: Tensor, turned: Tensor) -> Tensor:
    """``(|f(x) - sg f(x')| + |f(x') - sg f(x)|) / 2``, the mean over windows and outputs; sg stops the gradient.

    Args:
        output: (B, D) of windows.
        turned: (B, D) of the same windows, turned.
    """
    return ((output - turned.detach()).abs().mean() + (turned - output.detach()).abs().mean()) / 2
