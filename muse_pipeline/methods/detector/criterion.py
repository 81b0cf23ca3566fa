"""The contract of every criterion, the loss of a nucleus head on labels. One per head, under the head's name."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from muse_pipeline.core.registry import Registry
from muse_pipeline.data.augment import LabelledBatch
from muse_pipeline.models.heads import NucleusMaps

RAY_WEIGHT = 2.0  # of outlines against every other term of a loss on dense maps
RIM_UM = 3.0  # nuclei cut by the border of an annotated region have no label: nothing so near to it is background


CRITERIA: Registry = Registry("criterion", "muse_pipeline.methods.detector")


class Criterion(nn.Module):
    """Base class of criteria, built from (mpp, class_weights): um per pixel of the windows, and (C,) class weights."""

    def forward(self, maps: NucleusMaps, batch: LabelledBatch) -> dict[str, Tensor]:
        """``"loss"`` and its terms by name; none has a gradient in unlabelled areas (``batch.region``)."""
        raise NotImplementedError


def known_cells(maps: NucleusMaps, batch: LabelledBatch) -> tuple[Tensor, Tensor]:
    """Two (B, 1, h, w) of 0 and 1: cells with known nuclei, and cells where anything else is known to be background."""
    if batch.region is None:
        everywhere = torch.ones_like(maps.centre)
        return everywhere, everywhere
    depth_um = batch.region[:, None]
    return (depth_um > 0).to(maps.centre), (depth_um >= RIM_UM).to(maps.centre)


def unannotated_cells(batch: LabelledBatch) -> Tensor:
    """(B, 1, h, w) bool: cells outside of annotations, of windows with regions."""
    return batch.region[:, None] == 0


def mean_over(values: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean; 0 where nothing has weight."""
    return (values * weight).sum() / weight.sum().clamp(min=1e-6)
