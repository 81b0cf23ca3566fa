"""The contract of every criterion: what a nucleus head learns from labels. One per head, under the head's name."""

from __future__ import annotations

from torch import Tensor, nn

from muse_pipeline.data.augment import LabelledBatch
from muse_pipeline.models.heads import NucleusMaps


class Criterion(nn.Module):
    """Built from (mpp, class_weights): um per pixel of the windows, and (C,) weights of the classes."""

    def forward(self, maps: NucleusMaps, batch: LabelledBatch) -> dict[str, Tensor]:
        """``"loss"`` and its terms by name."""
        raise NotImplementedError


def mean_over(values: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean; 0 where nothing has weight."""
    return (values * weight).sum() / weight.sum().clamp(min=1e-6)
