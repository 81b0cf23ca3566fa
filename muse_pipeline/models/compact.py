"""Compact residual encoder-decoders with a dense map at stride 4, for a CPU.

A 4 x 4 patch stem, a thin decoder and addition instead of concatenation: on a CPU most of the time goes into operations
at stride 4, so few are spent there.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from muse_pipeline.models import BACKBONES
from muse_pipeline.models.base import Backbone, Features, ResidualBlock, Stage, UpAdd, conv_norm


class CompactNetwork(Backbone):
    """Reads optical densities; the image vector is the mean of the deepest stage.

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
        self.channels, self.image_channels = widths[0], widths[-1]
        self.stride_px = 2 ** (len(widths) + 1)
        self.stage_sizes = tuple(Stage(4 * 2**index, width) for index, width in enumerate(widths))

    def forward(self, image: Tensor) -> Features:
        """(B, 3, H, W) -> features; nothing that enters the dense map looks at the whole window."""
        skips = list(self.stage_maps(image))
        x = skips[-1]
        for up, skip in zip(self.decoder, reversed(skips[:-1]), strict=True):
            x = up(x, skip)
        return Features(x, skips[-1].mean((2, 3)))

    def stage_maps(self, image: Tensor) -> Iterator[Tensor]:
        """The residual stages; nothing in them looks at the whole window."""
        x = self.stem(image)
        for stage in self.stages:
            x = stage(x)
            yield x


@BACKBONES.register("muse_compact_48")
def muse_compact_48() -> CompactNetwork:
    """Strides 4 to 32; about 44 kFLOP per pixel, with a dense head."""
    return CompactNetwork((48, 96, 160, 160), (1, 2, 2, 2))


@BACKBONES.register("muse_compact_32")
def muse_compact_32() -> CompactNetwork:
    """Strides 4 to 32; about 26 kFLOP per pixel, with a dense head."""
    return CompactNetwork((32, 64, 160, 160), (1, 2, 2, 2))


@BACKBONES.register("muse_compact_24")
def muse_compact_24() -> CompactNetwork:
    """Strides 4 to 32; about 13 kFLOP per pixel, with a dense head."""
    return CompactNetwork((24, 48, 96, 128), (1, 2, 2, 2))


@BACKBONES.register("muse_compact_16")
def muse_compact_16() -> CompactNetwork:
    """A very small one for tests."""
    return CompactNetwork((16, 16, 32), (1, 1, 1))
