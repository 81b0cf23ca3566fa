"""Backbone and head as one network, and the graph around it that turns pixels into lists of nuclei."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from muse_pipeline.models import BACKBONES
from muse_pipeline.models.colour import optical_density
from muse_pipeline.models.heads import DenseNuclei, DenseNucleusHead

CELL_PX = 4  # the dense map is at stride 4


class NucleusDetector(nn.Module):
    """Pixels and colour map -> dense nuclei."""

    def __init__(self, backbone: str, n_classes: int, n_rays: int):
        super().__init__()
        self.backbone = BACKBONES[backbone]()
        self.head = DenseNucleusHead(self.backbone.out_channels, n_classes, n_rays)

    def forward(self, pixels: Tensor, colour: Tensor) -> DenseNuclei:
        """(B, 3, H, W) in 0..255 and (3, 4) or (B, 3, 4) -> maps at stride 4."""
        return self.head(self.backbone(optical_density(pixels, colour)))


class DetectionGraph(nn.Module):
    """What is exported: windows in, fixed numbers of nuclei out (DESIGN, "The graph does the work").

    Args:
        detector: the trained network.
        threshold: score below which a slot stays empty.
        capacity: slots per window.
    """

    def __init__(self, detector: NucleusDetector, threshold: float, capacity: int):
        super().__init__()
        self.detector, self.threshold, self.capacity = detector, threshold, capacity

    def forward(self, pixels: Tensor, colour: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Find nuclei.

        Args:
            pixels: (B, 3, H, W) uint8.
            colour: (3, 4) float32.

        Returns:
            xy (B, K, 2) window px; score (B, K), descending, 0 for an empty slot; prob (B, K, C); rays (B, K, R) um.
        """
        maps = self.detector(pixels, colour)
        rows, columns = maps.centre.shape[-2:]
        peak = maps.centre == nn.functional.max_pool2d(maps.centre, 3, stride=1, padding=1)
        score = torch.where(peak, maps.centre.sigmoid(), torch.zeros_like(maps.centre)).flatten(1)
        score = torch.where(score >= self.threshold, score, torch.zeros_like(score))
        score, cell = score.topk(min(self.capacity, rows * columns), dim=1)  # (B, K)
        at_cell = torch.cat((maps.offset, maps.label, maps.rays), 1).flatten(2)  # (B, 2 + C + R, h * w)
        values = at_cell.gather(2, cell[:, None].expand(-1, at_cell.shape[1], -1)).transpose(1, 2)  # (B, K, ...)
        n_classes = maps.label.shape[1]
        offset, label, rays = values.split((2, n_classes, maps.rays.shape[1]), 2)
        row = torch.div(cell, columns, rounding_mode="floor")
        centre = torch.stack((cell - row * columns, row), 2).to(offset.dtype) + 0.5
        return (centre + offset) * CELL_PX, score, label.softmax(2), rays
