"""Common parts of the MUSE networks: an encoder of four levels, the decoder, and RGB normalised as for ImageNet.

"MUSE" (arXiv 2511.05170); authors' code: alibaba-damo-academy/MUSE (Apache-2.0). Written from its description; names of
modules are those of the released checkpoints (``encoder.encoder.*``, ``decoder.*``), so that weights go both ways.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from muse_pipeline.models.base import ALIGNED_CORNERS, Backbone, Features, Stage, recoloured

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ImageNetBackbone(Backbone):
    """A backbone that reads RGB, normalised with the means and deviations of ImageNet."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    def prepare(self, pixels: Tensor, colour: Tensor) -> Tensor:
        """RGB after the slide's colour map, normalised."""
        return (recoloured(pixels, colour) / 255.0 - self.mean) / self.std


class MuseBackbone(ImageNetBackbone):
    """Encoder and decoder with the interface of a backbone.

    Args:
        encoder: (B, 3, H, W) -> (four maps, fine to coarse, image vector (B, D')).
        decoder: four maps -> (B, ``decoder.out_channels``, H / 4, W / 4).
        image_channels: D'.
        stride_px: stride of the encoder.
        stage_sizes: sizes of the encoder's maps.
    """

    lattice = ALIGNED_CORNERS

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        image_channels: int,
        stride_px: int,
        stage_sizes: Sequence[Stage],
    ):
        super().__init__()
        self.encoder = nn.ModuleDict({"encoder": encoder})  # doubled, as in the released files
        self.decoder = decoder
        self.channels, self.image_channels, self.stride_px = decoder.out_channels, image_channels, stride_px
        self.stage_sizes = tuple(stage_sizes)

    def forward(self, image: Tensor) -> Features:
        """(B, 3, H, W), normalised -> features."""
        levels, vector = self.encoder["encoder"](image)
        return Features(self.decoder(levels), vector)

    def stage_maps(self, image: Tensor) -> Iterator[Tensor]:
        """The four maps that the decoder reads; asking for one computes all."""
        yield from self.encoder["encoder"](image)[0]


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize bilinearly to (rows, columns); first and last rows and columns keep their positions."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=True)


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm and, optionally, ReLU; keeps the size."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, relu: bool):
        super().__init__()
        self.layer = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True) if relu else nn.Identity(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H, W)."""
        return self.layer(x)


class ResBlock(nn.Module):
    """Two 3x3 convolutions added to their input, then ReLU."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = ConvNorm(channels, channels, 3, relu=True)
        self.conv2 = ConvNorm(channels, channels, 3, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return functional.relu(self.conv2(self.conv1(x)) + x)


class UpMerge(nn.Module):
    """Resize the coarse map to the skip's size, put it **before** the skip, and merge both."""

    def __init__(self, coarse_channels: int, skip_channels: int):
        super().__init__()
        self.first_block = ConvNorm(coarse_channels + skip_channels, skip_channels, 3, relu=True)
        self.last_block = ResBlock(skip_channels)

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """(B, C, h, w) and (B, C', H, W) -> (B, C', H, W)."""
        return self.last_block(self.first_block(torch.cat((resize(coarse, skip.shape[-2:]), skip), 1)))


class HyperFeats(nn.Module):
    """Every level through its own 1x1 convolution, resized to the finest, stacked fine to coarse."""

    def __init__(self, widths: tuple[int, ...], channels: int):
        super().__init__()
        self.conv_list = nn.ModuleList(ConvNorm(width, channels, 1, relu=False) for width in widths)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Maps at strides 4, 8, 16, 32 -> (B, 4 * channels, H / 4, W / 4)."""
        size = levels[0].shape[-2:]
        maps = [resize(conv(level), size) for conv, level in zip(self.conv_list, levels, strict=True)]
        return torch.cat(maps, 1)


class Decoder(nn.Module):
    """Encoder levels of ``widths`` channels at strides 4, 8, 16, 32 -> (B, 4 * widths[0], H / 4, W / 4)."""

    def __init__(self, widths: tuple[int, int, int, int]):
        super().__init__()
        self.decoder3 = UpMerge(widths[3], widths[2])
        self.decoder2 = UpMerge(widths[2], widths[1])
        self.decoder1 = UpMerge(widths[1], widths[0])
        self.hyper_feats = HyperFeats(widths, widths[0])
        self.out_channels = 4 * widths[0]

    def forward(self, levels: list[Tensor]) -> Tensor:
        """The deepest level enters the stack as the encoder gave it; the other three are decoded."""
        fine, middle, coarse, deepest = levels
        coarse = self.decoder3(deepest, coarse)
        middle = self.decoder2(coarse, middle)
        fine = self.decoder1(middle, fine)
        return self.hyper_feats([fine, middle, coarse, deepest])
