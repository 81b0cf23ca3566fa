"""Classes of nuclei by their nearest neighbours among labelled ones, as in MUSE's and DINO's evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

KS = (10, 20, 100, 200, 500)
TEMPERATURE = 0.07
CHUNK = 1024


def classify_by_neighbours(
    bank: Tensor, bank_label: Tensor, query: Tensor, n_classes: int, ks: Sequence[int] = KS
) -> Tensor:
    """Each query gets the class with the most weight among its k nearest of the bank, for every k at once.

    Args:
        bank: (N, D) features, of any length.
        bank_label: (N,) class index.
        query: (M, D).
        n_classes: C.
        ks: numbers of neighbours that vote; at most all of the bank.

    Returns:
        (K, M) class index; of equal weights the lower class.
    """
    bank, query = functional.normalize(bank.float(), dim=1), functional.normalize(query.float(), dim=1)
    ks = [min(k, len(bank)) for k in ks]
    if not len(query):
        return torch.zeros((len(ks), 0), dtype=torch.long)
    predictions = []
    for part in query.split(CHUNK):
        similarity, neighbour = (part @ bank.T).topk(max(ks), dim=1)  # (m, k), nearest first
        votes = functional.one_hot(bank_label[neighbour], n_classes) * (similarity / TEMPERATURE).exp()[..., None]
        weight = votes.cumsum(1)  # (m, k, C): after so many neighbours
        predictions.append(torch.stack([weight[:, k - 1].argmax(1) for k in ks]))
    return torch.cat(predictions, 1)
