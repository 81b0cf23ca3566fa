"""MUSE with a vision transformer: the taps become a pyramid, which the decoder merges.

"MUSE" (arXiv 2511.05170). One function per released variant; 224 and 512 differ in the grid of their positional table.
"""

from __future__ import annotations

from torch import Tensor, nn

from muse_pipeline.models import BACKBONES
from muse_pipeline.models.base import Stage
from muse_pipeline.models.muse import Decoder, MuseBackbone, resize
from muse_pipeline.models.vit import PATCH_PX, TAPS, VisionTransformer


class TapDecoder(Decoder):
    """Projects the four taps, all at stride 16, then resizes them to strides 4, 8, 16 and 32, and decodes."""

    def __init__(self, dim: int):
        widths = (dim // 4, dim // 2, dim, 2 * dim)
        super().__init__(widths)
        self.dim_map_layers = nn.ModuleList(nn.Conv2d(dim, width, 1, bias=False) for width in widths)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Four (B, C, h, w), shallow to deep -> (B, C, 4 h, 4 w)."""
        rows, columns = levels[0].shape[-2:]
        sizes = [
            (4 * rows, 4 * columns),
            (2 * rows, 2 * columns),
            (rows, columns),
            (max(rows // 2, 1), max(columns // 2, 1)),
        ]
        projected = [layer(tap) for layer, tap in zip(self.dim_map_layers, levels, strict=True)]
        return super().forward([resize(level, size) for level, size in zip(projected, sizes, strict=True)])


class MuseVit(MuseBackbone):
    """ViT/16 with the decoder of MUSE; the image vector is the class token.

    Args:
        dim: C, width of the transformer and of the dense map.
        n_heads: heads of each attention.
        input_px: side of the window that the positional table is made for; other windows have it resampled.
    """

    def __init__(self, dim: int, n_heads: int, input_px: int):
        encoder = VisionTransformer(dim, n_heads, input_px // PATCH_PX)
        taps = [Stage(PATCH_PX, dim)] * len(TAPS)
        super().__init__(encoder, TapDecoder(dim), image_channels=dim, stride_px=PATCH_PX, stage_sizes=taps)

    def fix_size(self, height: int, width: int) -> None:
        """Bake the positional table for windows of this size."""
        self.encoder["encoder"].bake_positions((height // PATCH_PX, width // PATCH_PX))


@BACKBONES.register("muse_vit_s_16_224")
def muse_vit_s_16_224() -> MuseVit:
    """ViT-S/16 for 224 px; 31 M parameters, 384 channels."""
    return MuseVit(384, 6, 224)


@BACKBONES.register("muse_vit_s_16_512")
def muse_vit_s_16_512() -> MuseVit:
    """ViT-S/16 for 512 px."""
    return MuseVit(384, 6, 512)


@BACKBONES.register("muse_vit_b_16_224")
def muse_vit_b_16_224() -> MuseVit:
    """ViT-B/16 for 224 px; 123 M parameters, 768 channels."""
    return MuseVit(768, 12, 224)


@BACKBONES.register("muse_vit_b_16_512")
def muse_vit_b_16_512() -> MuseVit:
    """ViT-B/16 for 512 px."""
    return MuseVit(768, 12, 512)
