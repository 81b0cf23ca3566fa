"""Maps of tissue regions: side maps at three scales of a backbone, their fusion, and the exported
graph.

This is the network of IKD-MIL, for both teacher and student, and of its predecessors (SA-MIL,
DWS-MIL), on any registered backbone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from muse_pipeline.core.coords import CELL_PX
from muse_pipeline.core.errors import ConfigError
from muse_pipeline.models import BACKBONES

N_SCALES = 3
FUSION = (0.3, 0.3, 0.4)  # weights used by IKD-MIL; SA-MIL and DWS-MIL use (0.2, 0.35, 0.45)


class RegionMaps(NamedTuple):
    """Probabilities of the K = C - 1 classes after the first, for B windows of H x W px."""

    sides: tuple[Tensor, ...]  # three maps (B, K, H / 4, W / 4), fine to coarse
    fused: Tensor  # (B, K, H / 4, W / 4), the weighted mean of ``sides``


class RegionNetwork(nn.Module):
    """Computes, from pixels and a colour map, a map of each class but the first, which is other
    tissue.
    """

    def __init__(self, backbone: str, n_classes: int, fusion: Sequence[float] = FUSION):
        super().__init__()
        if n_classes < 2:
            raise ConfigError(
                f"a region model needs at least two classes, found {n_classes}; add other tissue"
            )
        if len(fusion) != N_SCALES or min(fusion) < 0 or abs(sum(fusion) - 1) > 1e-6:
            raise ConfigError(
                f"fusion {tuple(fusion)}: give {N_SCALES} weights of 0 or more that sum to 1"
            )
        self.backbone = BACKBONES[backbone]()
        self.fusion = tuple(float(weight) for weight in fusion)
        sizes = self.backbone.stage_sizes[:N_SCALES]
        self.sides = nn.ModuleList(nn.Conv2d(size.channels, n_classes - 1, 1) for size in sizes)

    def side_logits(self, pixels: Tensor, colour: Tensor) -> list[Tensor]:
        """Logits (B, K, H / stride, W / stride) of three stages, fine to coarse, for pixels (B, 3,
        H, W), 0 to 255.
        """
        stages = islice(self.backbone.stage_maps(self.backbone.prepare(pixels, colour)), N_SCALES)
        return [side(stage) for side, stage in zip(self.sides, stages, strict=True)]

    def forward(self, pixels: Tensor, colour: Tensor) -> RegionMaps:
        """Compute the side maps on cells of 4 px, resized at half-pixel centres, and their
        fusion.
        """
        rows, columns = (side // CELL_PX for side in pixels.shape[-2:])
        sides = tuple(
            functional.interpolate(
                logits, size=(rows, columns), mode="bilinear", align_corners=False
            ).sigmoid()
            for logits in self.side_logits(pixels, colour)
        )
        return RegionMaps(
            sides, sum(weight * side for weight, side in zip(self.fusion, sides, strict=True))
        )


class RegionGraph(nn.Module):
    """The exported graph: windows in, a map of every class out.

    The fused maps are smoothed by a mean over 3 x 3 cells, which is about as wide as the Gaussian
    of IKD-MIL's inference (3 px).
    """

    def __init__(self, network: RegionNetwork):
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor, colour: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 and a colour map (3, 4) -> probabilities (B, C, H / 4, W / 4).

        The probability of the first class is 1 minus the largest of the other classes.
        """
        fused = self.network(pixels, colour).fused
        smooth = functional.avg_pool2d(fused, 3, stride=1, padding=1, count_include_pad=False)
        return torch.cat([1 - smooth.amax(1, keepdim=True), smooth], 1)
