"""The whole network with a linear layer, trained on given points as MUSE's authors do; every epoch is judged."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from muse_pipeline.models.base import Backbone
from muse_pipeline.training.probing.point_set import BATCH, PointSet

EPOCHS = 10
WINDOWS = 32
LEARNING_RATE = 1e-5


def finetune_on_points(
    backbone: Backbone,
    layer: nn.Linear,
    train: PointSet,
    judged: PointSet,
    device: torch.device,
    seed: int,
    learning_rate: float = LEARNING_RATE,
    epochs: int = EPOCHS,
) -> Tensor:
    """AdamW without weight decay, cosine to 0, cross-entropy over all nuclei of a batch, batch norm in train mode.

    Args:
        backbone: changed in place.
        layer: (D) -> (C) to begin with: the linear probe's; changed in place.
        train: 32 windows make a batch; not augmented.
        judged: classified after every epoch.
        device: of both networks.
        seed: of the order.
        learning_rate: 1e-5; the authors advise 4e-5 for ResNet-50.
        epochs: E.

    Returns:
        (E, P) class index of each of the judged points after each epoch.
    """
    generator = torch.Generator().manual_seed(seed)
    parameters = [*backbone.parameters(), *layer.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    predictions = []
    for epoch in range(epochs):
        optimiser.param_groups[0]["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        backbone.train()
        order = torch.randperm(len(train.windows), generator=generator).tolist()
        for batch in train.batches(WINDOWS, device, order):
            loss = functional.cross_entropy(layer(batch.features(backbone)), batch.label[batch.label >= 0])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        predictions.append(_classify(backbone, layer, judged, device))
    return torch.stack(predictions)


@torch.no_grad()
def _classify(backbone: Backbone, layer: nn.Linear, points: PointSet, device: torch.device) -> Tensor:
    backbone.eval()
    return torch.cat([layer(batch.features(backbone)).argmax(1).cpu() for batch in points.batches(BATCH, device)])
