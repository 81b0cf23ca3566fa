"""Vectors spread over the sphere: the Kozachenko-Leonenko estimate of their entropy, as DINOv2 uses it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def koleo(vectors: Tensor) -> Tensor:
    """-mean log distance of each normalised vector (N, D) to its nearest other (arXiv 1806.03198); 0 below two."""
    if len(vectors) < 2:
        return vectors.sum() * 0
    unit = functional.normalize(vectors.float(), dim=-1)
    with torch.no_grad(), torch.autocast(unit.device.type, enabled=False):  # the nearest depends on the last bits
        nearest = (unit @ unit.T).fill_diagonal_(-2).argmax(1)
    return -torch.log((unit - unit[nearest]).norm(dim=-1) + 1e-8).mean()
