"""Cross-entropy between a teacher's and a student's prototype probabilities, and targets that prevent collapse.

Centring and sharpening: "Emerging properties in self-supervised vision transformers" (DINO, arXiv 2104.14294).
Sinkhorn-Knopp: SwAV (arXiv 2006.09882) and DINOv2 (arXiv 2304.07193).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, distributed


def cross_entropy(target: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """(N,) cross-entropy -sum p log q of each row.

    Args:
        target: (N, K) probabilities p from the teacher, without gradient.
        logits: (N, K) logits of the student's probabilities q.
        temperature: temperature of the student's softmax.
    """
    return -(target * torch.log_softmax(logits.float() / temperature, -1)).sum(-1)


def centred_targets(logits: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """(N, K) softmax of the teacher's logits (N, K) after subtraction of ``centre`` (K,)."""
    return torch.softmax((logits.float() - centre) / temperature, -1)


def sinkhorn_targets(logits: Tensor, temperature: float, n_iterations: int = 3) -> Tensor:
    """(N, K) probabilities that assign rows to prototypes so that, over all processes, prototypes are used equally.

    Processes may have different numbers of rows, or none; all of them must call this function.
    """
    scores = (logits.float() / temperature).T  # (K, N); kept as logarithms, so that low temperatures do not overflow
    n_rows = all_sum(torch.tensor(float(scores.shape[1]), device=logits.device)).clamp(min=1)
    # Each prototype gets 1 / K of the mass, then each row 1 / N; rows are scaled last, so that each sums to 1.
    for _ in range(n_iterations):
        scores = scores - _log_sum(scores) - math.log(len(scores))
        scores = scores - scores.logsumexp(0, keepdim=True) - n_rows.log()
    return (scores + n_rows.log()).exp().T


def all_sum(values: Tensor) -> Tensor:
    """The sum of ``values`` (...) over all processes; ``values`` itself if there is only one."""
    if not _is_shared():
        return values
    total = values.clone()
    distributed.all_reduce(total)
    return total


def n_processes() -> int:
    """The number of processes (int) that train together."""
    return distributed.get_world_size() if _is_shared() else 1


def _log_sum(scores: Tensor) -> Tensor:
    """(K, 1) logarithm of the sum of exp(scores) over the rows (K, N) of all processes."""
    highest = scores.amax(1, keepdim=True) if scores.shape[1] else scores.new_full((len(scores), 1), -torch.inf)
    if _is_shared():
        distributed.all_reduce(highest, op=distributed.ReduceOp.MAX)
    # If no process has a row, the maximum is -inf, and -inf minus itself would be NaN.
    highest = highest.nan_to_num(neginf=0.0)
    return highest + all_sum(torch.exp(scores - highest).sum(1, keepdim=True)).clamp(min=1e-30).log()


def _is_shared() -> bool:
    return distributed.is_available() and distributed.is_initialized()
