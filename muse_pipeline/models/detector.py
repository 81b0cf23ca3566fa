"""Backbone and head as one network, and the graph around it that turns pixels into lists of nuclei."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from muse_pipeline.core.coords import CELL_PX
from muse_pipeline.models import BACKBONES, HEADS
from muse_pipeline.models.base import Backbone, read_at
from muse_pipeline.models.heads import NucleusHead, NucleusMaps, pick


class NucleusDetector(nn.Module):
    """Pixels and colour map -> nuclei at every cell.

    Args:
        backbone: registered name.
        head: registered name.
        n_classes: C.
        n_rays: R.
    """

    def __init__(self, backbone: str, head: str, n_classes: int, n_rays: int):
        super().__init__()
        self.backbone = BACKBONES[backbone]()
        self.head = HEADS[head](self.backbone.channels, n_classes, n_rays)

    @classmethod
    def of(cls, backbone: Backbone, head: NucleusHead) -> NucleusDetector:
        """Build a detector from existing networks."""
        detector = cls.__new__(cls)
        nn.Module.__init__(detector)
        detector.backbone, detector.head = backbone, head
        return detector

    def features(self, pixels: Tensor, colour: Tensor) -> Tensor:
        """(B, D, h, w) dense map, read by the backbone's own lattice."""
        return self.backbone(self.backbone.prepare(pixels, colour)).dense

    def forward(self, pixels: Tensor, colour: Tensor) -> NucleusMaps:
        """(B, 3, H, W) in 0..255 and (3, 4) or (B, 3, 4) -> maps at stride 4."""
        return self.read_maps(self.features(pixels, colour))

    def read_maps(self, dense: Tensor) -> NucleusMaps:
        """Output of the head for a dense map of ``features``."""
        return self.head(self.backbone.lattice.at_cells(dense))

    def propose(self, dense: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores of a dense map's cells, and the input of the head's second step (``NucleusHead.propose``)."""
        return self.head.propose(self.backbone.lattice.at_cells(dense))


class DetectionGraph(nn.Module):
    """The exported graph: windows in, fixed numbers of nuclei out (DESIGN, "The graph does the work").

    Args:
        detector: the trained network.
        threshold: score below which a slot stays empty.
        capacity: slots per window.
        embed: whether every nucleus also gets its vector from the dense map.
    """

    def __init__(self, detector: NucleusDetector, threshold: float, capacity: int, embed: bool = False):
        super().__init__()
        self.detector, self.threshold, self.capacity, self.embed = detector, threshold, capacity, embed

    def forward(self, pixels: Tensor, colour: Tensor) -> tuple[Tensor, ...]:
        """Find nuclei.

        Args:
            pixels: (B, 3, H, W) uint8.
            colour: (3, 4) float32.

        Returns:
            xy (B, K, 2) window px; score (B, K), descending, 0 for an empty slot; prob (B, K, C); rays (B, K, R) um.
            With ``embed`` also embedding (B, K, D), the dense map read where the nucleus lies.
        """
        dense = self.detector.features(pixels, colour)
        score, located, described = self.detector.propose(dense)
        n_cells = score.shape[-2] * score.shape[-1]
        score = score.flatten(1)
        score = torch.where(score >= self.threshold, score, torch.zeros_like(score))
        score, cell = score.topk(min(self.capacity, n_cells), dim=1)  # (B, K)
        xy = self.detector.head.locate(located, cell) * CELL_PX
        label, rays = self.detector.head.describe(pick(described, cell, n_cells))
        found = (xy, score, label.softmax(2), rays)
        return (*found, read_at(dense, xy, self.detector.backbone.lattice)) if self.embed else found
