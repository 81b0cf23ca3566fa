"""The vision transformer of DINO, with outputs after four of its blocks, for inputs of any size.

Caron et al., "Emerging properties in self-supervised vision transformers" (ICCV 2021), as the MUSE authors use it:
pre-norm blocks, LayerNorm eps 1e-6, exact GELU, a learned table of positions, no dropout. Parameters are named
as in DINO.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

PATCH_PX = 16
TAPS = (2, 5, 8, 11)  # blocks, counted from 0, whose outputs the decoder reads
GRID_EXCESS = 0.1  # DINO adds this to the target grid against rounding errors, so its weights were trained with it


def resample_positions(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resample a positional table from its own square grid to another, as DINO does.

    Interpolation is bicubic (a = -0.75) at half-pixel centres with the scale ``(grid + 0.1) / own``. Token i samples
    ``(i + 0.5) * own / (grid + 0.1) - 0.5``, so the table **changes even if the grids are equal**. The class token is
    kept.

    Args:
        table: (1, 1 + g * g, C), class token first.
        grid: (rows, columns) of the new table.

    Returns:
        (1, 1 + rows * columns, C).
    """
    own = square_grid(table)
    patches = table[:, 1:].reshape(1, own, own, -1).permute(0, 3, 1, 2)
    scale = [(side + GRID_EXCESS) / own for side in grid]
    patches = functional.interpolate(patches, scale_factor=scale, mode="bicubic", align_corners=False)
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
        query, key, value = (part.unflatten(2, (self.n_heads, -1)).transpose(1, 2) for part in parts)
        mixed = functional.scaled_dot_product_attention(query, key, value)  # (B, heads, N, C / heads)
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


class Block(nn.Module):
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
    """(B, 3, H, W) -> four maps (B, C, H / 16, W / 16), shallow to deep, and the class token (B, C).

    Args:
        dim: number of channels, C.
        n_heads: number of heads of each attention layer.
        grid: patches per side of the positional table, which is resampled for inputs with a different grid.
        depth: number of blocks.
    """

    def __init__(self, dim: int, n_heads: int, grid: int, depth: int = 12):
        super().__init__()
        self.taps = TAPS
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid * grid, dim))
        self.patch_embed = PatchEmbedding(dim)
        self.blocks = nn.ModuleList(Block(dim, n_heads) for _ in range(depth))
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
        """Store the table for one grid as a constant, so that an exported graph need not resample it."""
        self.baked_grid = None
        self.baked_positions, self.baked_grid = self.positions(grid).detach().clone(), grid

    def forward(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the four maps, each after the final LayerNorm, and the class token of the last block."""
        patches = self.patch_embed(image)
        rows, columns = patches.shape[-2:]
        tokens = torch.cat((self.cls_token.expand(image.shape[0], -1, -1), patches.flatten(2).transpose(1, 2)), 1)
        tokens = tokens + self.positions((rows, columns))
        taps = []
        for index, block in enumerate(self.blocks):
            tokens = block(tokens)
            if index in self.taps:
                taps.append(self.norm(tokens))
        maps = [tap[:, 1:].transpose(1, 2).unflatten(2, (rows, columns)) for tap in taps]
        return maps, taps[-1][:, 0]
