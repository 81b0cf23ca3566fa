"""A small encoder whose finest stage does most of the work: what PSM's activation maps are read from, on a CPU."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from muse_pipeline.models import BACKBONES
from muse_pipeline.models.base import Backbone, Features, ResidualBlock, Stage, conv_norm


class ShallowNetwork(Backbone):
    """Residual stages at strides 4, 8, 16, ...; the dense map is the finest stage as it is, without a decoder.

    The kernels of the stem are even, so that a cell of the finest stage lies in the middle of its 4 x 4 pixels.

    Args:
        widths: channels of the stages.
        depths: residual blocks of the stages; PSM averages its map over those of the first, three in the release.
    """

    def __init__(self, widths: tuple[int, ...], depths: tuple[int, ...]):
        super().__init__()
        half = widths[0] // 2
        self.stem = nn.Sequential(
            conv_norm(3, half, kernel=4, stride=2),
            nn.ReLU(inplace=True),
            conv_norm(half, widths[0], kernel=4, stride=2),
            nn.ReLU(inplace=True),
        )
        self.stages = nn.ModuleList()
        channels = widths[0]
        for index, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            blocks = [ResidualBlock(channels, width, stride=1 if index == 0 else 2)]
            blocks += [ResidualBlock(width, width) for _ in range(depth - 1)]
            self.stages.append(nn.Sequential(*blocks))
            channels = width
        self.channels, self.image_channels = widths[0], widths[-1]
        self.stride_px = 2 ** (len(widths) + 1)
        self.stage_sizes = tuple(Stage(4 * 2**index, width) for index, width in enumerate(widths))

    def forward(self, image: Tensor) -> Features:
        """(B, 3, H, W) -> the finest stage, and the mean of the coarsest."""
        maps = list(self.stage_maps(image))
        return Features(maps[0], maps[-1].mean((2, 3)))

    def stage_maps(self, image: Tensor) -> Iterator[Tensor]:
        """The residual stages."""
        x = self.stem(image)
        for stage in self.stages:
            x = stage(x)
            yield x


@BACKBONES.register("shallow_cnn")
def shallow_cnn() -> ShallowNetwork:
    """Strides 4 to 32; about 10 kFLOP per pixel."""
    return ShallowNetwork((32, 48, 64, 96), (3, 1, 1, 1))
