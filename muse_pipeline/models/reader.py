"""The reader of UNITPathSSL: a backbone with a head that translates pictures to masks, and an instance head."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from muse_pipeline.models import BACKBONES, HEADS
from muse_pipeline.models.detector import NucleusDetector
from muse_pipeline.models.heads import NucleusMaps


class Reading(NamedTuple):
    """Outputs of the reader for B pictures.

    Attributes:
        mask: (B, 3, H, W) in the colours of masks; targets are -1 to 1, outputs are not bounded.
        nuclei: maps at stride 4.
    """

    mask: Tensor
    nuclei: NucleusMaps


class TranslationHead(nn.Module):
    """Dense map at stride 4 -> mask: twice a 3x3 convolution with instance norm and doubling, then a linear 3x3.

    Args:
        in_channels: channels of the dense map, which already sums the backbone's pyramid.
        widths: channels at strides 4 and 2.
    """

    def __init__(self, in_channels: int, widths: tuple[int, int]):
        super().__init__()
        layers: list[nn.Module] = []
        for inside, outside in zip((in_channels, *widths), widths, strict=False):
            layers += [
                nn.Conv2d(inside, outside, 3, padding=1),
                nn.InstanceNorm2d(outside),
                nn.ReLU(inplace=True),
                nn.Upsample(scale_factor=2, mode="nearest"),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 3, 3, padding=1))

    def forward(self, dense: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, 3, 4 h, 4 w)."""
        return self.layers(dense)


class MaskReader(nn.Module):
    """Pictures -> masks and nuclei, from one dense map.

    Args:
        backbone: registered name.
        n_rays: R of the dense instance head.
        widths: channels of the translation head at strides 4 and 2.
    """

    def __init__(self, backbone: str, n_rays: int, widths: tuple[int, int]):
        super().__init__()
        self.backbone = BACKBONES[backbone]()
        self.translation = TranslationHead(self.backbone.channels, widths)
        self.head = HEADS["dense"](self.backbone.channels, 1, n_rays)

    def forward(self, pixels: Tensor, colour: Tensor) -> Reading:
        """(B, 3, H, W) in 0..255 and (3, 4) or (B, 3, 4) -> mask and nuclei; gradients reach the pixels."""
        dense = self.backbone.lattice.at_cells(self.backbone(self.backbone.prepare(pixels, colour)).dense)
        return Reading(self.translation(dense).float(), self.head(dense))

    def detector(self) -> NucleusDetector:
        """Backbone and instance head, which share their weights with the reader."""
        return NucleusDetector.of(self.backbone, self.head)
