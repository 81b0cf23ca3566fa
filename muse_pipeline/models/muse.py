"""MUSE's networks: an encoder of four levels, ResNet-50 or a vision transformer, and the decoder.

MUSE: arXiv 2511.05170; authors' code: alibaba-damo-academy/MUSE (Apache-2.0). This module is
written from the paper's description. Its layers are named as in the released checkpoints
(``encoder.encoder.*``, ``decoder.*``), so that weights can be exchanged in both directions.

ResNet-50: He et al., "Deep residual learning for image recognition" (CVPR 2016), in the form and
with the parameter names of timm 0.6.13 (stride on the 3x3 convolution of a bottleneck). The
released weights for 224 and 512 px fit the same network. The transformers for 224 and 512 px differ
in the grid of their positional table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from muse_pipeline.models import BACKBONES
from muse_pipeline.models.base import ALIGNED_CORNERS, Features, ImageNetBackbone, StageSize

PATCH_PX = 16
N_BLOCKS = 12
TAPS = (2, 5, 8, 11)  # blocks, counted from 0, whose outputs the decoder reads
# DINO adds this to the target grid against rounding errors, so its weights were trained with it
GRID_EXCESS = 0.1


def resample_positions(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resample a positional table (1, 1 + g * g, C), class token first, to a grid (rows, columns),
    as DINO does.

    Interpolation is bicubic (a = -0.75) at half-pixel centres with the scale ``(grid + 0.1) /
    own``. Token i samples ``(i + 0.5) * own / (grid + 0.1) - 0.5``, so the table **changes even if
    the grids are equal**. The class token is kept.
    """
    own = square_grid(table)
    patches = table[:, 1:].reshape(1, own, own, -1).permute(0, 3, 1, 2)
    scale = [(side + GRID_EXCESS) / own for side in grid]
    patches = functional.interpolate(
        patches, scale_factor=scale, mode="bicubic", align_corners=False
    )
    return torch.cat((table[:, :1], patches.flatten(2).transpose(1, 2)), 1)


def square_grid(table: Tensor) -> int:
    """Patches per side of a (1, 1 + g * g, C) table."""
    return round((table.shape[1] - 1) ** 0.5)


class PatchEmbedding(nn.Module):
    """(B, 3, H, W) -> (B, C, H / 16, W / 16): one linear map per patch."""

    def __init__(self, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, PATCH_PX, PATCH_PX)

    def forward(self, image: Tensor) -> Tensor:
        """Compute the map of patch tokens."""
        return self.proj(image)


class Attention(nn.Module):
    """Self-attention over all tokens, (B, N, C) -> (B, N, C)."""

    def __init__(self, dim: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Apply scaled dot-product attention to the tokens."""
        parts = self.qkv(tokens).chunk(3, 2)
        query, key, value = (
            part.unflatten(2, (self.n_heads, -1)).transpose(1, 2) for part in parts
        )
        # (B, heads, N, C / heads)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them; the inner width is four times the outer one."""

    def __init__(self, dim: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        return self.fc2(self.act(self.fc1(tokens)))


class TransformerBlock(nn.Module):
    """Attention and feed-forward, each after a LayerNorm and added to its input."""

    def __init__(self, dim: int, n_heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, n_heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = FeedForward(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class VisionTransformer(nn.Module):
    """(B, 3, H, W) -> four maps (B, C, H / 16, W / 16), shallow to deep, and the class token (B,
    C).

    Caron et al., "Emerging properties in self-supervised vision transformers" (ICCV 2021), as the
    MUSE authors use it: pre-norm blocks, LayerNorm eps 1e-6, exact GELU, a learned table of
    positions, no dropout. Parameters are named as in DINO. The positional table has ``grid`` x
    ``grid`` patches, and is resampled for other inputs.
    """

    def __init__(self, dim: int, n_heads: int, grid: int):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid * grid, dim))
        self.patch_embed = PatchEmbedding(dim)
        self.blocks = nn.ModuleList(TransformerBlock(dim, n_heads) for _ in range(N_BLOCKS))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.register_buffer("baked_positions", None, persistent=False)
        self.baked_grid: tuple[int, int] | None = None
        for parameter in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(parameter, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """The positional table for a (rows, columns) grid of patches."""
        if grid == self.baked_grid:
            return self.baked_positions
        own = square_grid(self.pos_embed)
        return self.pos_embed if grid == (own, own) else resample_positions(self.pos_embed, grid)

    @torch.no_grad()
    def bake_positions(self, grid: tuple[int, int]) -> None:
        """Store the table for one grid as a constant, so that an exported graph need not resample
        it.
        """
        self.baked_grid = None
        self.baked_positions = self.positions(grid).detach().clone()
        self.baked_grid = grid

    def forward(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the four maps, each after the final LayerNorm, and the class token of the last
        block.
        """
        patches = self.patch_embed(image)
        rows, columns = patches.shape[-2:]
        tokens = torch.cat(
            (self.cls_token.expand(image.shape[0], -1, -1), patches.flatten(2).transpose(1, 2)), 1
        )
        tokens = tokens + self.positions((rows, columns))
        taps = []
        for index, block in enumerate(self.blocks):
            tokens = block(tokens)
            if index in TAPS:
                taps.append(self.norm(tokens))
        maps = [tap[:, 1:].transpose(1, 2).unflatten(2, (rows, columns)) for tap in taps]
        return maps, taps[-1][:, 0]


EXPANSION = 4  # ratio of a bottleneck's output channels to its inner channels
DEPTHS = (3, 4, 6, 3)  # blocks of ResNet-50's stages


class MuseBackbone(ImageNetBackbone):
    """Encoder and decoder with the interface of a backbone.

    ``encoder`` returns four maps, fine to coarse, of ``stage_sizes``, and the image vector;
    ``decoder`` maps these to (B, ``decoder.out_channels``, H / 4, W / 4).
    """

    lattice = ALIGNED_CORNERS

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        image_channels: int,
        stride_px: int,
        stage_sizes: Sequence[StageSize],
    ):
        super().__init__()
        self.encoder = nn.ModuleDict({"encoder": encoder})  # nested twice, as in the released files
        self.decoder = decoder
        self.channels = decoder.out_channels
        self.image_channels = image_channels
        self.stride_px = stride_px
        self.stage_sizes = tuple(stage_sizes)

    def forward(self, image: Tensor) -> Features:
        """(B, 3, H, W), normalised -> features."""
        levels, vector = self.encoder["encoder"](image)
        return Features(self.decoder(levels), vector)

    def stage_maps(self, image: Tensor) -> Iterator[Tensor]:
        """The four maps that the decoder reads; all are computed when the first is requested."""
        yield from self.encoder["encoder"](image)[0]


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize bilinearly to (rows, columns); first and last rows and columns keep their
    positions.
    """
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=True)


class ConvNorm(nn.Module):
    """Convolution without bias, then batch norm and, with ``relu``, ReLU; the size does not
    change.
    """

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
    """Resize the coarse map to the size of the skip, concatenate both, the coarse map **first**,
    and merge them.
    """

    def __init__(self, coarse_channels: int, skip_channels: int):
        super().__init__()
        self.first_block = ConvNorm(coarse_channels + skip_channels, skip_channels, 3, relu=True)
        self.last_block = ResBlock(skip_channels)

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """(B, C, h, w) and (B, C', H, W) -> (B, C', H, W)."""
        return self.last_block(
            self.first_block(torch.cat((resize(coarse, skip.shape[-2:]), skip), 1))
        )


class HyperFeats(nn.Module):
    """A 1x1 convolution of each level; the results are resized to the finest level and stacked,
    fine to coarse.
    """

    def __init__(self, widths: tuple[int, ...], channels: int):
        super().__init__()
        self.conv_list = nn.ModuleList(ConvNorm(width, channels, 1, relu=False) for width in widths)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Maps at strides 4, 8, 16, 32 -> (B, 4 * channels, H / 4, W / 4)."""
        size = levels[0].shape[-2:]
        maps = [
            resize(conv(level), size) for conv, level in zip(self.conv_list, levels, strict=True)
        ]
        return torch.cat(maps, 1)


class Decoder(nn.Module):
    """Encoder levels of ``widths`` channels at strides 4, 8, 16, 32 -> (B, 4 * widths[0], H / 4, W
    / 4).
    """

    def __init__(self, widths: tuple[int, int, int, int]):
        super().__init__()
        self.decoder3 = UpMerge(widths[3], widths[2])
        self.decoder2 = UpMerge(widths[2], widths[1])
        self.decoder1 = UpMerge(widths[1], widths[0])
        self.hyper_feats = HyperFeats(widths, widths[0])
        self.out_channels = 4 * widths[0]

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Decode the first three levels and stack them with the deepest level, which is not
        decoded.
        """
        fine, middle, coarse, deepest = levels
        coarse = self.decoder3(deepest, coarse)
        middle = self.decoder2(coarse, middle)
        fine = self.decoder1(middle, fine)
        return self.hyper_feats([fine, middle, coarse, deepest])


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1, and a shortcut: (B, C, H, W) -> (B, 4 * width, H / stride, W
    / stride).
    """

    def __init__(self, in_channels: int, width: int, stride: int):
        super().__init__()
        out_channels = EXPANSION * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.act = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Residual sum, then ReLU."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.act(self.bn1(self.conv1(x)))
        x = self.act(self.bn2(self.conv2(x)))
        return self.act(self.bn3(self.conv3(x)) + shortcut)


class ResNet50(nn.Module):
    """(B, 3, H, W) -> maps of 256, 512, 1024, 2048 channels at strides 4, 8, 16, 32, and the mean
    of the last.
    """

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.act = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = 64
        for index, depth in enumerate(DEPTHS):
            width = 64 * 2**index
            blocks = [Bottleneck(channels, width, stride=1 if index == 0 else 2)]
            blocks += [Bottleneck(EXPANSION * width, width, stride=1) for _ in range(depth - 1)]
            self.add_module(f"layer{index + 1}", nn.Sequential(*blocks))
            channels = EXPANSION * width
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the outputs of the stages, fine to coarse, and the mean of the last one (B,
        2048).
        """
        x = self.maxpool(self.act(self.bn1(self.conv1(image))))
        stages = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            stages.append(x)
        return stages, x.mean((2, 3))


def _muse_r50() -> MuseBackbone:
    widths = (256, 512, 1024, 2048)
    stages = [StageSize(4 * 2**index, width) for index, width in enumerate(widths)]
    return MuseBackbone(
        ResNet50(), Decoder(widths), image_channels=2048, stride_px=32, stage_sizes=stages
    )


class TapDecoder(Decoder):
    """Projects the transformer's four maps, all at stride 16, resizes them to strides 4, 8, 16 and
    32, and decodes.
    """

    def __init__(self, dim: int):
        widths = (dim // 4, dim // 2, dim, 2 * dim)
        super().__init__(widths)
        self.dim_map_layers = nn.ModuleList(
            nn.Conv2d(dim, width, 1, bias=False) for width in widths
        )

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
        return super().forward(
            [resize(level, size) for level, size in zip(projected, sizes, strict=True)]
        )


class MuseVit(MuseBackbone):
    """ViT/16 with the decoder of MUSE; the image vector is the class token.

    The positional table is made for windows of ``input_px``.
    """

    def __init__(self, dim: int, n_heads: int, input_px: int):
        encoder = VisionTransformer(dim, n_heads, input_px // PATCH_PX)
        taps = [StageSize(PATCH_PX, dim)] * len(TAPS)
        super().__init__(
            encoder, TapDecoder(dim), image_channels=dim, stride_px=PATCH_PX, stage_sizes=taps
        )

    def fix_size(self, height: int, width: int) -> None:
        """Fix the positional table for windows of this size."""
        self.encoder["encoder"].bake_positions((height // PATCH_PX, width // PATCH_PX))


for _side in (224, 512):
    BACKBONES.register(f"muse_r50_{_side}")(_muse_r50)  # 86 M parameters, 1,024 channels
    # 31 M parameters, 384 channels
    BACKBONES.register(f"muse_vit_s_16_{_side}")(partial(MuseVit, 384, 6, _side))
    # 123 M parameters, 768 channels
    BACKBONES.register(f"muse_vit_b_16_{_side}")(partial(MuseVit, 768, 12, _side))
