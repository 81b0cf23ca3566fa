"""Gated attention over the tiles of a slide: Ilse, Tomczak, Welling, "Attention-based deep MIL" (ICML 2018)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class BagOutput(NamedTuple):
    """Output of a model for one slide of N tiles.

    Attributes:
        logit: (K,) logits of the slide.
        attention: (N, K), sums to 1 over the tiles.
        tile_logit: (N, K) of every tile on its own.
    """

    logit: Tensor
    attention: Tensor
    tile_logit: Tensor


class GatedAttention(nn.Module):
    """Features of tiles -> classes of the slide; every class has its own attention.

    Args:
        n_features: D.
        n_classes: K, without the first class of the region model.
        hidden: width of the attention.
    """

    def __init__(self, n_features: int, n_classes: int, hidden: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("deviation", torch.ones(n_features))
        self.embed = nn.Sequential(nn.Linear(n_features, 2 * hidden), nn.ReLU())
        self.value, self.gate = nn.Linear(2 * hidden, hidden), nn.Linear(2 * hidden, hidden)
        self.attend = nn.Linear(hidden, n_classes)
        self.classify = nn.Linear(2 * hidden, n_classes)

    def forward(self, features: Tensor) -> BagOutput:
        """Classify a slide by the features (N, D) of its tiles."""
        embedded = self.embed((features - self.mean) / self.deviation)
        scores = self.attend(torch.tanh(self.value(embedded)) * torch.sigmoid(self.gate(embedded)))
        attention, tile_logit = torch.softmax(scores, 0), self.classify(embedded)
        return BagOutput((attention * tile_logit).sum(0), attention, tile_logit)
