"""Nearest nuclei by the cosine of their features: the same nucleus seen twice, or others like it in other patients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

DECIMALS = 5  # cosines that differ by less are equal: a collapsed network's differ by rounding alone


def find_similar(features: Tensor, patient: Sequence[str], queries: Sequence[int], k: int) -> np.ndarray:
    """The k nuclei of other patients that are most alike, nearest first.

    Args:
        features: (P, D), of any length.
        patient: (P,) whose nucleus it is.
        queries: (Q,) which of them are looked up.
        k: no more than the nuclei of other patients.

    Returns:
        (Q, k) which of the P.
    """
    unit, names = functional.normalize(features.float(), dim=1), np.asarray(patient)
    similarity = unit[list(queries)] @ unit.T
    similarity[torch.from_numpy(names[list(queries), None] == names[None])] = -torch.inf
    return similarity.topk(k, dim=1).indices.numpy()


def cosines(one: Tensor, other: Tensor) -> Tensor:
    """(n, m) of features (n, D) and (m, D), rounded."""
    one, other = (functional.normalize(features.float(), dim=1) for features in (one, other))
    return (one @ other.T).round(decimals=DECIMALS)


def recognised(one: Tensor, other: Tensor) -> np.ndarray:
    """How surely each of n nuclei is found again: top-1, in percent, both ways; of k equally near ones 1 / k.

    Args:
        one: (n, D) features in one view.
        other: (n, D) of the same nuclei in another.

    Returns:
        (n,) 0 to 100; chance is 100 / n.
    """
    similarity = cosines(one, other)
    hits = []
    for table in (similarity, similarity.T):
        nearest = table == table.max(1, keepdim=True).values
        hits.append(nearest.diagonal() / nearest.sum(1))
    return 50 * sum(hits).numpy()


def stability(one: Tensor, other: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How often each of n nuclei is more like itself in another view than another nucleus is.

    Args:
        one: (n, D) features in one view.
        other: (n, D) of the same nuclei in another.

    Returns:
        (n,) percent, where chance is 50 and a network that says the same of everything gets that; (n,) cosine with
        itself; (n,) mean cosine with the others.
    """
    similarity = cosines(one, other)
    own = similarity.diagonal()
    n_others = len(own) - 1
    below = (similarity < own[:, None]).sum(1) + 0.5 * ((similarity == own[:, None]).sum(1) - 1)
    different = (similarity.sum(1) - own) / n_others
    return (100 * below / n_others).numpy(), own.numpy(), different.numpy()
