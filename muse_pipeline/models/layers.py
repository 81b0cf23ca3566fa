"""Blocks that the compact networks are made of. Plain 3x3 convolutions and ReLU: what every runtime does fast.

Nothing here looks at the whole window (no GroupNorm, squeeze-excite or pooling to a point), so that a nucleus comes out
the same wherever its window lies.
"""

from __future__ import annotations

from torch import Tensor, nn


def conv_norm(in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution without bias and batch norm; padding keeps the size at stride 1."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, (kernel - 1) // 2, bias=False),
        nn.BatchNorm2d(out_channels),
    )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: (B, C, H, W) -> (B, C', H / stride, W / stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__()
        self.first = conv_norm(in_channels, out_channels, stride=stride)
        self.second = conv_norm(out_channels, out_channels)
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same else conv_norm(in_channels, out_channels, kernel=stride, stride=stride)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Residual sum, then ReLU."""
        return self.activation(self.second(self.activation(self.first(x))) + self.shortcut(x))


class UpAdd(nn.Module):
    """Project the coarse map, double it (half-pixel bilinear), add the skip, refine."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.project = conv_norm(in_channels, out_channels, kernel=1)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.refine = ResidualBlock(out_channels, out_channels)

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """(B, C, H, W) and (B, C', 2H, 2W) -> (B, C', 2H, 2W)."""
        return self.refine(self.up(self.project(coarse)) + skip)
