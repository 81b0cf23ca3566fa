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
        self.prototypes = nn.Parameter(torch.empty(n_prototypes, bottleneck))
        # As long as DINO's at first: only their direction counts, and the longer they are the slower they turn.
        nn.init.uniform_(self.prototypes, -(bottleneck**-0.5), bottleneck**-0.5)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C) -> (N, K), in float32: cosines that are divided by a temperature of 0.04 have no bits to lose."""
        latent = self.layers(features).float()
        with torch.autocast(latent.device.type, enabled=False):
            return functional.normalize(latent, dim=-1) @ functional.normalize(self.prototypes, dim=-1).T
