"""Losses of PSM (arXiv 2210.07862) and of its authors' release."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

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


def detached_similarity(output: Tensor, turned: Tensor) -> Tensor:
    """``(|f(x) - sg f(x')| + |f(x') - sg f(x)|) / 2``, the mean over windows and outputs; sg stops the gradient.

    Args:
        output: (B, D) of windows.
        turned: (B, D) of the same windows, turned.
    """
    return ((output - turned.detach()).abs().mean() + (turned - output.detach()).abs().mean()) / 2


def mean_value_regression(output: Tensor, pixels: Tensor) -> Tensor:
    """Mean squared error of the mean value, in shares of white.

    Args:
        output: (B, 1).
        pixels: (B, 3, H, W), 0 to 255.
    """
    return (output[:, 0] - pixels.mean((1, 2, 3)) / 255).square().mean()


def partial_nll(logit: Tensor, target: Tensor) -> Tensor:
    """Mean over the pixels that are labelled; 0, with a gradient of 0, where none is.

    Args:
        logit: (B, H, W), of foreground.
        target: (B, H, W); 1 foreground, 0 background, anything else is ignored.
    """
    known = ((target == 0) | (target == 1)).to(logit)
    loss = binary_cross_entropy_with_logits(logit, (target == 1).to(logit), weight=known, reduction="sum")
    return loss / known.sum().clamp(min=1)


def rotation_regression(output: Tensor, quarter_turns: Tensor) -> Tensor:
    """Mean squared error of the number of quarter turns.

    Args:
        output: (B, 1).
        quarter_turns: (B,) 0 to 3.
    """
    return (output[:, 0] - quarter_turns).square().mean()


def rotation_similarity(output: Tensor, turned: Tensor) -> Tensor:
    """Mean of ``|f(x) - f(rot180 x)|``; a constant f solves it, and nothing prevents that.

    Args:
        output: (B, D) of windows.
        turned: (B, D) of the same windows turned by 180 degrees.
    """
    return (output - turned).abs().mean()
