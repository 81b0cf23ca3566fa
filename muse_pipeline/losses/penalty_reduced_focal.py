"""Penalty-reduced focal loss of CornerNet (Law and Deng, ECCV 2018, arXiv 1808.01244, equation 1)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

ALPHA = 2.0  # focusing exponent
BETA = 4.0  # exponent of ``1 - target``; higher values penalise cells close to a centre less


def penalty_reduced_focal(logit: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Focal loss on a map of Gaussians: false positives near a centre are penalised less.

    Args:
        logit: (B, 1, h, w).
        target: (B, 1, h, w) Gaussians in [0, 1], 1 exactly at the centre cells.
        weight: (B, 1, h, w), 0 in cells that are ignored.

    Returns:
        Scalar: the sum over cells, divided by the number of centres (at least 1).
    """
    prob = logit.sigmoid()
    positive = (target >= 1).to(logit.dtype) * weight
    negative = (target < 1).to(logit.dtype) * weight
    # Computed from logits, because a probability that is rounded to 0 or 1 has an infinite logarithm.
    hit = positive * (1 - prob) ** ALPHA * logsigmoid(logit)
    miss = negative * (1 - target) ** BETA * prob**ALPHA * logsigmoid(-logit)
    return -(hit.sum() + miss.sum()) / positive.sum().clamp(min=1)
