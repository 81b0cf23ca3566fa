"""The compact networks, and convolutional encoders of one method each: PSM, TriDeNT (partners) and
IKD-MIL.

VGG-16: Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition"
(ICLR 2015).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch import Tensor, nn
from torch.nn import functional

from muse_pipeline.models import BACKBONES
from muse_pipeline.models.base import (
    Backbone,
    Features,
    ImageNetBackbone,
    ResidualEncoder,
    StageSize,
    UpAdd,
    conv_norm,
)


class CompactNetwork(ResidualEncoder):
    """Encoder-decoder for optical densities, designed for CPUs; the image vector is the mean of the
    deepest stage.

    On a CPU, most of the time goes into operations at stride 4. To keep their number low, the stem
    is one convolution of 4 x 4 patches, the decoder is thin, and skips are added instead of
    concatenated.
    """

    def __init__(self, widths: tuple[int, ...], depths: tuple[int, ...]):
        stem = nn.Sequential(conv_norm(3, widths[0], kernel=4, stride=4), nn.ReLU(inplace=True))
        # ``conv_norm`` pads by 1, which would move the 4 x 4 patches off the cells of the dense
        # map.
        stem[0][0].padding = (0, 0)
        super().__init__(stem, widths, depths)
        pairs = list(zip(widths[1:], widths[:-1], strict=True))
        self.decoder = nn.ModuleList(UpAdd(coarse, fine) for coarse, fine in reversed(pairs))

    def forward(self, image: Tensor) -> Features:
        """(B, 3, H, W) -> features; no layer of the dense map depends on the whole window."""
        skips = list(self.stage_maps(image))
        x = skips[-1]
        for up, skip in zip(self.decoder, reversed(skips[:-1]), strict=True):
            x = up(x, skip)
        return Features(x, skips[-1].mean((2, 3)))


# Widths and depths of the stages, of which the first has stride 4
COMPACT = {
    "muse_compact_64": (
        (64, 128, 256, 256),
        (2, 3, 3, 2),
    ),  # 112 kFLOP per pixel, with a dense head
    "muse_compact_48": ((48, 96, 160, 160), (1, 2, 2, 2)),  # 44 kFLOP
    "muse_compact_32": ((32, 64, 160, 160), (1, 2, 2, 2)),  # 26 kFLOP
    "muse_compact_24": ((24, 48, 96, 128), (1, 2, 2, 2)),  # 13 kFLOP
    "muse_compact_16": ((16, 16, 32), (1, 1, 1)),  # for tests
}
for _name, _sizes in COMPACT.items():
    BACKBONES.register(_name)(partial(CompactNetwork, *_sizes))

N_STAGES = 3  # stages of the colour network; every backbone has at least three
WIDTHS, DEPTHS = (64, 128, 256), (2, 2, 3)


@BACKBONES.register("shallow_cnn")
class ShallowNetwork(ResidualEncoder):
    """Residual stages at strides 4 to 32; the dense map is the finest stage, without a decoder.
    About 10 kFLOP per pixel.

    The sides of the stem's kernels are even, so that each cell of the finest stage is centred on 4
    x 4 pixels. PSM averages its map over the blocks of the first stage, of which the released
    network has three.
    """

    def __init__(self):
        stem = nn.Sequential(
            conv_norm(3, 16, kernel=4, stride=2),
            nn.ReLU(inplace=True),
            conv_norm(16, 32, kernel=4, stride=2),
            nn.ReLU(inplace=True),
        )
        super().__init__(stem, (32, 48, 64, 96), (3, 1, 1, 1))

    def forward(self, image: Tensor) -> Features:
        """(B, 3, H, W) -> the finest stage, and the mean of the coarsest."""
        maps = list(self.stage_maps(image))
        return Features(maps[0], maps[-1].mean((2, 3)))


@BACKBONES.register("colour_cnn")
class ColourNetwork(Backbone):
    """Layers on single pixels, averaging over 8 x 8 px at stride 4, and layers on the averages;
    about 0.5 kFLOP per pixel.

    A partner shows the same shapes as its H&E image. If this network could see shapes or
    neighbours, they would suffice to match the nuclei of the two images, and the H&E network would
    learn nothing about the partner's stain.
    """

    def __init__(self):
        super().__init__()
        width = 32
        self.pixels = nn.Sequential(*_layer(3, width), *_layer(width, width))
        self.mean = nn.AvgPool2d(8, stride=4, padding=2, count_include_pad=False)
        self.means = nn.Sequential(
            *_layer(width, width), *_layer(width, width), nn.Conv2d(width, width, 1)
        )
        self.channels = self.image_channels = width
        self.stride_px = 4 * 2 ** (N_STAGES - 1)
        self.stage_sizes = tuple(StageSize(4 * 2**index, width) for index in range(N_STAGES))

    def forward(self, image: Tensor) -> Features:
        """(B, 3, H, W) -> the dense map, and its mean."""
        dense = next(self.stage_maps(image))
        return Features(dense, dense.mean((2, 3)))

    def stage_maps(self, image: Tensor) -> Iterator[Tensor]:
        """Yield the dense map, and its means over blocks of 2 x 2 and 4 x 4 cells."""
        x = self.means(self.mean(self.pixels(image)))
        yield x
        for _ in range(N_STAGES - 1):
            x = functional.avg_pool2d(x, 2)
            yield x


def _layer(in_channels: int, out_channels: int) -> tuple[nn.Module, nn.Module]:
    return conv_norm(in_channels, out_channels, kernel=1), nn.ReLU(inplace=True)


@BACKBONES.register("vgg16_3_stages")
class Vgg16Stages(ImageNetBackbone):
    """The first three stages of VGG-16: 3x3 convolutions with batch norm and ReLU, and a max-pool
    after each stage; about 150 kFLOP per pixel.

    The dense map is the output of the second stage, at stride 4; the image vector is the mean of
    the third.
    """

    def __init__(self):
        super().__init__()
        blocks, channels = [], 3
        for width, depth in zip(WIDTHS, DEPTHS, strict=True):
            layers = []
            for _ in range(depth):
                layers += [conv_norm(channels, width), nn.ReLU(inplace=True)]
                channels = width
            blocks.append(nn.Sequential(*layers, nn.MaxPool2d(2)))
        self.blocks = nn.ModuleList(blocks)
        self.channels = WIDTHS[1]
        self.image_channels = WIDTHS[2]
        self.stride_px = 8
        self.stage_sizes = tuple(
            StageSize(2 ** (index + 1), width) for index, width in enumerate(WIDTHS)
        )

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
