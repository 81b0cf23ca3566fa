"""Supervised training of a dense nucleus detector from points and, where they are known, outlines."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from muse_pipeline.data.augment import LabelledBatch
from muse_pipeline.data.targets import dense_targets
from muse_pipeline.losses.penalty_reduced_focal import penalty_reduced_focal
from muse_pipeline.methods import METHODS
from muse_pipeline.methods.base import Method
from muse_pipeline.models.detector import NucleusDetector
from muse_pipeline.models.heads import MEAN_RADIUS_UM
from muse_pipeline.models.readout import CELL_PX

BUMP_UM = 1.25
RAY_WEIGHT = 2.0
EMA_DECAY = 0.998  # approached from below, so that a short run does not keep its random start


@METHODS.register("detector")
class DetectorTraining(Method):
    """Focal centre map, L1 offsets and rays, weighted cross-entropy on classes; averaged weights leave the run.

    Args:
        network: the detector.
        mpp: um per pixel of the windows.
        class_weights: (C,) weights of the classes in the cross-entropy.
    """

    def __init__(self, network: NucleusDetector, mpp: float, class_weights: Tensor):
        super().__init__()
        self.network = network
        self.average = copy.deepcopy(network).requires_grad_(False)
        self.register_buffer("n_steps", torch.tensor(0))
        self.sigma_px = BUMP_UM / mpp
        self.register_buffer("class_weights", class_weights)

    def train(self, mode: bool = True) -> DetectorTraining:
        """Keep the averaged network in evaluation mode."""
        super().train(mode)
        self.average.eval()
        return self

    def losses(self, batch: LabelledBatch, turn: int, progress: float) -> dict[str, Tensor]:
        """Four terms; rays count double, all others once."""
        maps = self.network(batch.pixels, batch.colour)
        cells = tuple(maps.centre.shape[-2:])
        target = dense_targets(batch.xy, batch.label, batch.rays, cells, CELL_PX, self.sigma_px)
        known = target.weight[:, 0] * (target.label >= 0)
        cross_entropy = functional.cross_entropy(
            maps.label, target.label.clamp(min=0), self.class_weights, reduction="none"
        )
        has_rays = target.weight * target.rays[:, :1].isfinite()
        rays = (maps.rays - target.rays.nan_to_num()).abs() / MEAN_RADIUS_UM
        terms = {
            "centre": penalty_reduced_focal(maps.centre, target.centre, torch.ones_like(target.centre)),
            "offset": _mean((maps.offset - target.offset).abs().mean(1, keepdim=True), target.weight),
            "label": _mean(cross_entropy, known),
            "rays": _mean(rays.mean(1, keepdim=True), has_rays),
        }
        return {"loss": sum(terms.values()) + (RAY_WEIGHT - 1) * terms["rays"], **terms}

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Move the averaged weights a little towards the trained ones, with the statistics of the norms."""
        self.n_steps += 1
        share = 1 - min(EMA_DECAY, (1 + int(self.n_steps)) / (10 + int(self.n_steps)))
        for average, current in zip(self.average.parameters(), self.network.parameters(), strict=True):
            average.lerp_(current, share)
        for average, current in zip(self.average.buffers(), self.network.buffers(), strict=True):
            average.lerp_(current, share) if average.is_floating_point() else average.copy_(current)

    def trained(self) -> nn.Module:
        """The averaged network."""
        return self.average


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum() / weight.sum().clamp(min=1e-6)
