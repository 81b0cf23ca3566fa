"""Nearest nuclei by the cosine of their features: the same nucleus seen twice, or others like it in other patients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def find_similar(features: Tensor, patient: Sequence[str], queries: Sequence[int], k: int) -> np.ndarray:
    """The k nuclei of other patients that are most alike, nearest first.

    Args:
        features: (P, D), of any length.
        patient: (P,) whose nucleus it is.
        queries: (Q,) which of them are looked up.
        k: fewer than the nuclei of other patients.

    Returns:
        (Q, k) which of the P.
    """
    unit, names = functional.normalize(features.float(), dim=1), np.asarray(patient)
    similarity = unit[list(queries)] @ unit.T
    similarity[torch.from_numpy(names[list(queries), None] == names[None])] = -torch.inf
    return similarity.topk(k, dim=1).indices.numpy()
