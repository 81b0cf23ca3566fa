"""The first three stages of VGG-16 with batch norm: the encoder of IKD-MIL and its predecessors, for comparison.

Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition" (ICLR 2015).
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from muse_pipeline.models import BACKBONES
from muse_pipeline.models.base import Features, ImageNetBackbone, Stage, conv_norm

WIDTHS, DEPTHS = (64, 128, 256), (2, 2, 3)


class Vgg16Stages(ImageNetBackbone):
    """Convolutions of 3x3 with batch norm and ReLU, a max-pool after each stage.

    The dense map is the second stage, at stride 4; the image vector is the mean of the third.
    """

    def __init__(self):
        super().__init__()
        blocks, channels = [], 3
        for width, depth in zip(WIDTHS, DEPTHS, strict=True):
            layers: list[nn.Module] = []
            for _ in range(depth):
                layers += [conv_norm(channels, width), nn.ReLU(inplace=True)]
                channels = width
            blocks.append(nn.Sequential(*layers, nn.MaxPool2d(2)))
        self.blocks = nn.ModuleList(blocks)
        self.channels, self.image_channels, self.stride_px = WIDTHS[1], WIDTHS[2], 8
        self.stage_sizes = tuple(Stage(2 ** (index + 1), width) for index, width in enumerate(WIDTHS))

    def forward(self, image: Tensor) -> Features:
        """(B, 3, H, W), normalised -> features."""
        _, middle, coarse = self.stage_maps(image)
        return Features(middle, coarse.mean((2, 3)))

    def stage_maps(self, image: Tensor) -> Iterator[Tensor]:
        """The map after each max-pool."""
        x = image
        for block in self.blocks:
            x = block(x)
            yield x


@BACKBONES.register("vgg16_3_stages")
def vgg16_3_stages() -> Vgg16Stages:
    """Strides 2 to 8; about 150 kFLOP per pixel."""
    return Vgg16Stages()
