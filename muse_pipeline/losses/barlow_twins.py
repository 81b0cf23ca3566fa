"""Cross-correlation of two branches against the identity (Barlow Twins, arXiv 2103.03230)."""

from __future__ import annotations

from torch import Tensor

EPSILON = 1e-5  # added to variances


def barlow_twins(first: Tensor, second: Tensor, off_diagonal: float = 5e-3) -> Tensor:
    """Squared distance of the diagonal from 1 plus weighted squares of all other correlations; 0 below two rows.

    Args:
        first: (N, D); row k of both branches belongs to one sample.
        second: (N, D).
        off_diagonal: weight of correlations between two dimensions.
    """
    if len(first) < 2:
        return (first.sum() + second.sum()) * 0
    correlation = _standardised(first).T @ _standardised(second) / len(first)
    diagonal = correlation.diagonal()
    others = correlation.square().sum() - diagonal.square().sum()
    return (1 - diagonal).square().sum() + off_diagonal * others


def _standardised(rows: Tensor) -> Tensor:
    centred = rows - rows.mean(0)
    return centred / (centred.square().mean(0) + EPSILON).sqrt()
