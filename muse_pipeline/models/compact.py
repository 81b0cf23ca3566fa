"""Compact residual encoder-decoders with a dense map at stride 4, for a CPU.

A 4 x 4 patch stem, a thin decoder and addition instead of concatenation: on a CPU most of the time goes into operations
at stride 4, so few are spent there.
"""

from __future__ import annotations

from torch import Tensor, nn

from muse_pipeline.models import BACKBONES
from muse_pipeline.models.layers import ResidualBlock, UpAdd, conv_norm


class CompactNetwork(nn.Module):
    """(B, 3, H, W) optical densities -> (B, widths[0], H / 4, W / 4).

    Args:
        widths: channels at stride 4, 8, 16, ...; the total stride is ``2 ** (len(widths) + 1)``.
        depths: residual blocks of each stage.
    """

    def __init__(self, widths: tuple[int, ...], depths: tuple[int, ...]):
        super().__init__()
        self.stem = nn.Sequential(conv_norm(3, widths[0], kernel=4, stride=4), nn.ReLU(inplace=True))
        self.stem[0][0].padding = (0, 0)
        self.stages = nn.ModuleList()
        channels = widths[0]
        for index, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            blocks = [ResidualBlock(channels, width, stride=1 if index == 0 else 2)]
            blocks += [ResidualBlock(width, width) for _ in range(depth - 1)]
            self.stages.append(nn.Sequential(*blocks))
            channels = width
        pairs = list(zip(widths[1:], widths[:-1], strict=True))
        self.decoder = nn.ModuleList(UpAdd(coarse, fine) for coarse, fine in reversed(pairs))
        self.out_channels = widths[0]
        self.stride_px = 2 ** (len(widths) + 1)

    def forward(self, x: Tensor) -> Tensor:
        """H and W must be multiples of the total stride."""
        skips = []
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
            skips.append(x)
        for up, skip in zip(self.decoder, reversed(skips[:-1]), strict=True):
            x = up(x, skip)
        return x


@BACKBONES.register("compact_48")
def compact_48() -> CompactNetwork:
    """Strides 4 to 32; about 42 kFLOP per pixel."""
    return CompactNetwork((48, 96, 160, 160), (1, 2, 2, 2))


@BACKBONES.register("compact_16")
def compact_16() -> CompactNetwork:
    """A very small one for tests."""
    return CompactNetwork((16, 16, 32), (1, 1, 1))
