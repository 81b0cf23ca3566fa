"""The decoder of MUSE: from four encoder levels to one dense map at stride 4.

"MUSE" (arXiv 2511.05170), with the parameter names of the authors' checkpoints. Every resize is bilinear with aligned
corners, which is what ties these networks to the read-out rule of ``readout.ALIGNED_CORNERS``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear to (rows, columns); first and last rows and columns stay where they are."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=True)


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm and, where wanted, ReLU; keeps the size."""

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
