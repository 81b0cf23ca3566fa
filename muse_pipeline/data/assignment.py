"""One-to-one assignment of nuclei to the proposals that shall speak for them (Hungarian, sparse)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from torch import Tensor

UNMATCHED = 1e6  # cost of leaving a nucleus without a proposal: done only where there are too few


class Assignment(NamedTuple):
    """P pairs, in order of windows and nuclei.

    Attributes:
        window: (P,) index of the window.
        nucleus: (P,) index of the nucleus within its window.
        cell: (P,) index of the proposal within its window, row by row.
    """

    window: Tensor
    nucleus: Tensor
    cell: Tensor


def assign(cost: Tensor, cell: Tensor, allowed: Tensor) -> Assignment:
    """The cheapest one-to-one assignment in every window.

    All windows are one sparse problem. Every nucleus has a proposal of its own that stands for none and costs more than
    any real one, so that a solution always exists; nuclei that end there are not in the result.

    Args:
        cost: (B, M, K) of giving candidate k to a nucleus.
        cell: (B, M, K) index of the candidate within the window.
        allowed: (B, M, K) bool.
    """
    n_nuclei = cost.shape[1]
    entry = allowed.flatten(0, 1).cpu().numpy()
    cost, cell = (values.detach().flatten(0, 1).cpu().numpy() for values in (cost, cell))
    nuclei = np.flatnonzero(entry.any(1))
    row, candidate = np.nonzero(entry[nuclei])
    proposal = cell[nuclei[row], candidate].astype(np.int64)
    window = nuclei // max(n_nuclei, 1)
    most = int(proposal.max(initial=0)) + 1
    used, column = np.unique(window[row] * most + proposal, return_inverse=True)
    own = np.arange(len(nuclei))
    weights = cost[nuclei[row], candidate].astype(np.float64)
    weights += 1 - weights.min(initial=0)  # the solver takes no zeros
    problem = csr_matrix(
        (
            np.append(weights, np.full(len(nuclei), UNMATCHED)),
            (np.append(row, own), np.append(column, len(used) + own)),
        ),
        shape=(len(nuclei), len(used) + len(nuclei)),
    )
    matched, column = min_weight_full_bipartite_matching(problem) if len(nuclei) else (own, own)
    real = column < len(used)
    matched, column = matched[real], column[real]
    found = window[matched], nuclei[matched] % max(n_nuclei, 1), used[column] % most if len(used) else column
    return Assignment(*(torch.from_numpy(np.asarray(index, np.int64)).to(allowed.device) for index in found))
