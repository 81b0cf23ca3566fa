"""From a feature to logits over prototypes: the head of self-distillation, thrown away after pretraining (DINO)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Projector(nn.Module):
    """Three layers with GELU, a normalised bottleneck, and the cosine to each of K prototypes; no batch norm.

    Args:
        channels: of the feature.
        hidden: of the two layers inside.
        bottleneck: where vectors are normalised.
        n_prototypes: K.
    """

    def __init__(self, channels: int, hidden: int = 2048, bottleneck: int = 256, n_prototypes: int = 8192):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        for layer in self.layers[::2]:
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.prototypes = nn.Parameter(torch.randn(n_prototypes, bottleneck))

    def forward(self, features: Tensor, frozen: bool = False) -> Tensor:
        """(N, C) -> (N, K); ``frozen`` keeps the prototypes where they are."""
        prototypes = self.prototypes.detach() + 0 * self.prototypes if frozen else self.prototypes
        return functional.normalize(self.layers(features), dim=-1) @ functional.normalize(prototypes, dim=-1).T
