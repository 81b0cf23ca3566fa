"""Penalty-reduced focal loss of CornerNet (Law and Deng, ECCV 2018, arXiv 1808.01244, equation 1)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid


def penalty_reduced_focal(
    logit: Tensor, target: Tensor, weight: Tensor, alpha: float = 2.0, beta: float = 4.0
) -> Tensor:
    """Focal loss on a map of Gaussians: cells near a centre are punished less for firing.

    Args:
        logit: (B, 1, h, w).
        target: (B, 1, h, w) Gaussians in [0, 1], 1 exactly at the centre cells.
        weight: (B, 1, h, w), 0 where nothing is known.
        alpha: focusing exponent.
        beta: exponent of ``1 - target``; the higher, the lower the penalty of cells close to a centre.

    Returns:
        Scalar, divided by the number of centres (at least 1).
    """
    prob = logit.sigmoid()
    positive = (target >= 1).to(logit.dtype) * weight
    negative = (target < 1).to(logit.dtype) * weight
    hit = positive * (1 - prob) ** alpha * logsigmoid(logit)
    miss = negative * (1 - target) ** beta * prob**alpha * logsigmoid(-logit)
    return -(hit.sum() + miss.sum()) / positive.sum().clamp(min=1)


def focal_posterior(logit: Tensor, alpha: float = 2.0) -> Tensor:
    """The probability of the positive class for which ``logit`` is the focal loss's minimiser.

    The focal loss draws scores towards 0.5 (0.63 where the probability is 0.8). The derivative of its expectation at
    probability eta, ``-eta (1-p)^a log p - (1-eta) p^a log(1-p)``, vanishes where ``eta = g(1-p) / (g(p) + g(1-p))``
    with ``g(p) = (1-p)^a / p - a (1-p)^(a-1) log p`` (Charoenphakdee et al., CVPR 2021, arXiv 2011.09172).

    Args:
        logit: any shape.
        alpha: focusing exponent of the training.
    """

    def slope(prob: Tensor, log_prob: Tensor, rest: Tensor) -> Tensor:
        return rest**alpha / prob - alpha * rest ** (alpha - 1) * log_prob

    prob, rest = logit.sigmoid().clamp(1e-6, 1 - 1e-6), (-logit).sigmoid().clamp(1e-6, 1 - 1e-6)
    for_positive, for_negative = slope(prob, prob.log(), rest), slope(rest, rest.log(), prob)
    return for_negative / (for_positive + for_negative)
