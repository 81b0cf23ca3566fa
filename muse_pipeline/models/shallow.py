"""A small encoder whose finest stage does most of the work: PSM reads its activation maps from it, on a CPU."""

from __future__ import annotations

from torch import Tensor, nn

from muse_pipeline.models import BACKBONES
from muse_pipeline.models.base import Features, ResidualEncoder, conv_norm


class ShallowNetwork(ResidualEncoder):
    """Residual stages at strides 4, 8, 16, ...; the dense map is the finest stage as it is, without a decoder.

    The kernels of the stem are even, so that a cell of the finest stage lies in the middle of its 4 x 4 pixels.

    Args:
        widths: channels of the stages.
        depths: residual blocks of each stage; PSM averages its map over the blocks of the first, three in the release.
    """

    def __init__(self, widths: tuple[int, ...], depths: tuple[int, ...]):
        half = widths[0] // 2
        stem = nn.Sequential(
            conv_norm(3, half, kernel=4, stride=2),
            nn.ReLU(inplace=True),
            conv_norm(half, widths[0], kernel=4, stride=2),
            nn.ReLU(inplace=True),
        )
        super().__init__(stem, widths, depths)

    def forward(self, image: Tensor) -> Features:
        """(B, 3, H, W) -> the finest stage, and the mean of the coarsest."""
        maps = list(self.stage_maps(image))
        return Features(maps[0], maps[-1].mean((2, 3)))


@BACKBONES.register("shallow_cnn")
def shallow_cnn() -> ShallowNetwork:
    """Strides 4 to 32; about 10 kFLOP per pixel."""
    return ShallowNetwork((32, 48, 64, 96), (3, 1, 1, 1))
