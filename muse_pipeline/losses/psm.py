"""Losses of PSM (arXiv 2210.07862)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


def partial_nll(logit: Tensor, target: Tensor) -> Tensor:
    """Mean over the pixels that are labelled; 0, with a gradient of 0, where none is.

    Args:
        logit: (B, H, W), of foreground.
        target: (B, H, W); 1 foreground, 0 background, anything else is ignored.
    """
    known = ((target == 0) | (target == 1)).to(logit)
    loss = binary_cross_entropy_with_logits(logit, (target == 1).to(logit), weight=known, reduction="sum")
    return loss / known.sum().clamp(min=1)


def rotation_similarity(output: Tensor, turned: Tensor) -> Tensor:
    """Mean of ``|f(x) - f(rot180 x)|``; a constant f solves it, and nothing prevents that.

    Args:
        output: (B, D) of windows.
        turned: (B, D) of the same windows turned by 180 degrees.
    """
    return (output - turned).abs().mean()
