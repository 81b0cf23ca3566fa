"""Compact residual encoder-decoders with a dense map at stride 4, designed for CPUs.

On a CPU, most of the time goes into operations at stride 4. To keep their number low, the stem is one convolution of
4 x 4 patches, the decoder is thin, and skips are added instead of concatenated.
"""

from __future__ import annotations

from torch import Tensor, nn

from muse_pipeline.models import BACKBONES
from muse_pipeline.models.base import Features, ResidualEncoder, UpAdd, conv_norm


class CompactNetwork(ResidualEncoder):
    """Encoder-decoder for optical densities; the image vector is the mean of the deepest stage.

    Args:
        widths: number of channels at each stride, 4, 8, 16, ...; the total stride is ``2 ** (len(widths) + 1)``.
        depths: number of residual blocks in each stage.
    """

    def __init__(self, widths: tuple[int, ...], depths: tuple[int, ...]):
        stem = nn.Sequential(conv_norm(3, widths[0], kernel=4, stride=4), nn.ReLU(inplace=True))
        # ``conv_norm`` pads by 1, which would move the 4 x 4 patches off the cells of the dense map.
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


@BACKBONES.register("muse_compact_64")
def muse_compact_64() -> CompactNetwork:
    """Strides 4 to 32; about 112 kFLOP per pixel, with a dense head."""
    return CompactNetwork((64, 128, 256, 256), (2, 3, 3, 2))


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
    """A very small network for tests."""
    return CompactNetwork((16, 16, 32), (1, 1, 1))
