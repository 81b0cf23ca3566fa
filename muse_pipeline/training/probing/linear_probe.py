"""A linear layer on frozen features, trained as MUSE's authors do; every epoch is kept, so that a split may choose."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

EPOCHS = 100
LEARNING_RATE = 0.01
MOMENTUM = 0.9
BATCH = 256
INITIAL_STD = 0.01


@dataclass(frozen=True)
class LinearProbe:
    """The layer after each of E epochs.

    Attributes:
        weight: (E, C, D).
        bias: (E, C).
    """

    weight: Tensor
    bias: Tensor

    def classify(self, features: Tensor) -> Tensor:
        """(M, D) raw features -> (E, M) class index."""
        return torch.stack([(features @ w.T + b).argmax(1) for w, b in zip(self.weight, self.bias, strict=True)])

    def layer(self, epoch: int) -> nn.Linear:
        """The layer after ``epoch`` (counted from 0; -1 is the last)."""
        layer = nn.Linear(self.weight.shape[2], self.weight.shape[1])
        layer.load_state_dict({"weight": self.weight[epoch], "bias": self.bias[epoch]})
        return layer


def train_linear_probe(features: Tensor, label: Tensor, n_classes: int, seed: int, epochs: int = EPOCHS) -> LinearProbe:
    """SGD with momentum, learning rate along a cosine from 0.01 to 0 by epochs, shuffled whole batches of 256.

    Args:
        features: (N, D), raw. Fewer than 256 make one batch.
        label: (N,) class index.
        n_classes: C.
        seed: of the first weights and the order.
        epochs: E.
    """
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(features.shape[1], n_classes)
    nn.init.normal_(layer.weight, std=INITIAL_STD, generator=generator)
    nn.init.zeros_(layer.bias)
    optimiser = torch.optim.SGD(layer.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=0.0)
    batch = min(BATCH, len(features))
    weights, biases = [], []
    for epoch in range(epochs):
        optimiser.param_groups[0]["lr"] = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        order = torch.randperm(len(features), generator=generator)
        for chosen in order[: len(order) // batch * batch].split(batch):
            loss = functional.cross_entropy(layer(features[chosen]), label[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        weights.append(layer.weight.detach().clone())
        biases.append(layer.bias.detach().clone())
    return LinearProbe(torch.stack(weights), torch.stack(biases))
