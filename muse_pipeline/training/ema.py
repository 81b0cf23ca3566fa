"""A running average of a network: weights and statistics of the norms."""

from __future__ import annotations

import copy

import torch
from torch import nn

DECAY = 0.998  # approached from below, so that a short run does not keep its random start


class AveragedNetwork(nn.Module):
    """A copy that follows ``network`` and is always in evaluation mode; it has no gradients.

    Attributes:
        network: the average.
        n_steps: moves made.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.register_buffer("n_steps", torch.tensor(0))

    def train(self, mode: bool = True) -> AveragedNetwork:
        """Stay in evaluation mode."""
        super().train(mode)
        self.network.eval()
        return self

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move a little towards ``network``."""
        self.n_steps += 1
        n_steps = int(self.n_steps)
        share = 1 - min(DECAY, (1 + n_steps) / (10 + n_steps))
        pairs = [
            *zip(self.network.parameters(), network.parameters(), strict=True),
            *zip(self.network.buffers(), network.buffers(), strict=True),
        ]
        averages, currents = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
        torch._foreach_lerp_(list(averages), list(currents), share)  # one kernel per tensor is slow on a GPU
        for average, current in pairs:
            if not average.is_floating_point():
                average.copy_(current)
