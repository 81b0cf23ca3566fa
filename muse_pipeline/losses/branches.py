"""Losses between branches that encode the same samples of a batch: InfoNCE and VICReg.

InfoNCE: arXiv 1807.03748; SimCLR: arXiv 2002.05709. VICReg (variance, invariance and covariance): arXiv 2105.04906;
TriDeNT: arXiv 2312.02111. The invariance term is summed over ordered pairs of branches, so every pair is counted
twice. All pairs have the same weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional

EPSILON = 1e-5  # added to variances


def infonce(branches: Sequence[Tensor], known: Sequence[Tensor], temperature: float = 0.5) -> Tensor:
    """Symmetric cross-entropy of finding each sample of one branch in another, summed over pairs of branches.

    Args:
        branches: n tensors (N, D), not normalised; row k is the same sample in every branch.
        known: n tensors (N,) bool, True for rows present in a branch; a pair is compared on the rows present in both.
        temperature: softmax temperature; cosines are divided by it.
    """
    # A zero that depends on the input, so that it has a gradient even if no two branches share a row.
    total = branches[0].sum() * 0
    for one, other in combinations(range(len(branches)), 2):
        both = known[one] & known[other]
        if both.any():
            first, second = (functional.normalize(branches[index][both], dim=1) for index in (one, other))
            logits, own = first @ second.T / temperature, torch.arange(len(first), device=first.device)
            total = total + (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2
    return total


def invariance(branches: Sequence[Tensor], known: Sequence[Tensor]) -> Tensor:
    """Mean squared difference between two branches, summed over ordered pairs of branches.

    Args:
        branches: n tensors (N, D); row k is the same sample in every branch.
        known: n tensors (N,) bool, True for rows present in a branch; a pair is compared on the rows present in both.
    """
    total = branches[0].sum() * 0
    for one, other in combinations(range(len(branches)), 2):
        both = known[one] & known[other]
        squares = (branches[one] - branches[other]).square().mean(1)
        total = total + 2 * (squares * both).sum() / both.sum().clamp(min=1)
    return total


def variance(branches: Sequence[Tensor], known: Sequence[Tensor]) -> Tensor:
    """Shortfall of each dimension's standard deviation from 1, averaged over dimensions and summed over branches.

    Args:
        branches: n tensors (N, D).
        known: n tensors (N,) bool, as in ``invariance``.
    """
    deviations = [(covariance_matrix(rows[has]).diagonal() + EPSILON).sqrt() for rows, has in _pairs(branches, known)]
    return torch.stack([torch.relu(1 - one).mean() for one in deviations]).sum()


def covariance(branches: Sequence[Tensor], known: Sequence[Tensor]) -> Tensor:
    """Squared covariances of all ordered pairs of different dimensions, summed over pairs and branches, divided by D.

    Args:
        branches: n tensors (N, D).
        known: n tensors (N,) bool, as in ``invariance``.
    """
    matrices = [covariance_matrix(rows[has]) for rows, has in _pairs(branches, known)]
    return torch.stack([(one.square().sum() - one.diagonal().square().sum()) / len(one) for one in matrices]).sum()


def covariance_matrix(rows: Tensor) -> Tensor:
    """(D, D) biased covariance of rows (N, D); all zeros if there are no rows."""
    if not len(rows):
        return rows.new_zeros(rows.shape[1], rows.shape[1])
    centred = rows - rows.mean(0)
    return centred.T @ centred / len(rows)


def _pairs(branches: Sequence[Tensor], known: Sequence[Tensor]) -> zip:
    return zip(branches, known, strict=True)
