"""Dense supervision of a centre map: focal loss, L1 offsets and rays, weighted cross-entropy on classes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from muse_pipeline.core.coords import CELL_PX
from muse_pipeline.data.augment import LabelledBatch
from muse_pipeline.data.targets import dense_targets
from muse_pipeline.losses.penalty_reduced_focal import penalty_reduced_focal
from muse_pipeline.methods.detector.criterion import CRITERIA, RAY_WEIGHT, Criterion, known_cells, mean_over
from muse_pipeline.models.heads import MEAN_RADIUS_UM, NucleusMaps

GAUSSIAN_UM = 1.25


@CRITERIA.register("dense")
class DenseCriterion(Criterion):
    """Every cell within a cell of a centre is a target for it; the others are background.

    Args:
        mpp: um per pixel of the windows.
        class_weights: (C,) weights of the classes in the cross-entropy.
    """

    def __init__(self, mpp: float, class_weights: Tensor):
        super().__init__()
        self.sigma_px = GAUSSIAN_UM / mpp
        self.register_buffer("class_weights", class_weights)

    def forward(self, maps: NucleusMaps, batch: LabelledBatch) -> dict[str, Tensor]:
        """Four terms; rays count double, all others once."""
        cells = tuple(maps.centre.shape[-2:])
        target = dense_targets(batch.xy, cells, CELL_PX, self.sigma_px)
        inside, background = known_cells(maps, batch)
        weight = target.weight * inside
        window, row, column = weight[:, 0].nonzero(as_tuple=True)  # the few cells with a target
        at = window, slice(None), row, column
        nucleus, weight = target.nucleus[window, row, column], weight[window, 0, row, column]
        label, rays = batch.label[window, nucleus], batch.rays[window, nucleus]
        cross_entropy = functional.cross_entropy(
            maps.label[at], label.clamp(min=0), self.class_weights, reduction="none"
        )
        ray_error = (maps.rays[at] - rays.nan_to_num()).abs().mean(1) / MEAN_RADIUS_UM
        terms = {
            "centre": penalty_reduced_focal(
                maps.centre, target.centre, torch.where(target.centre >= 1, inside, background)
            ),
            "offset": mean_over((maps.offset[at] - target.offset[at]).abs().mean(1), weight),
            "label": mean_over(cross_entropy, weight * (label >= 0)),
            "rays": mean_over(ray_error, weight * rays[:, 0].isfinite()),
        }
        return {"loss": sum(terms.values()) + (RAY_WEIGHT - 1) * terms["rays"], **terms}
