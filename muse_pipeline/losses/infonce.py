"""InfoNCE between branches with the other samples of the batch as negatives (arXiv 1807.03748; SimCLR, 2002.05709)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional


def infonce(branches: Sequence[Tensor], known: Sequence[Tensor], temperature: float = 0.5) -> Tensor:
    """Sum over pairs of branches of the symmetric cross-entropy from a sample in one branch to itself in the other.

    Args:
        branches: n of (N, D), of any length; row k of all branches belongs to one sample.
        known: n of (N,) bool, the rows that a branch has. A pair is compared on the rows that both have.
        temperature: softmax temperature; cosines are divided by it.
    """
    total = branches[0].sum() * 0
    for one, other in combinations(range(len(branches)), 2):
        both = known[one] & known[other]
        if both.any():
            first, second = (functional.normalize(branches[index][both], dim=1) for index in (one, other))
            logits, own = first @ second.T / temperature, torch.arange(len(first), device=first.device)
            total = total + (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2
    return total
