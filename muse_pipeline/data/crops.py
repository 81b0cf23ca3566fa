"""Where training windows lie on labelled pictures, and the piece of picture that each of them needs."""

from __future__ import annotations

import torch
from torch import Tensor

from muse_pipeline.data.augment import WHITE, warp_windows


def place_windows(
    size: Tensor, region: Tensor, reach: Tensor, generator: torch.Generator, around: bool = False
) -> Tensor:
    """Draw where windows are centred, (B, 2) picture px.

    A window is uniform among the places where it holds the whole annotated region, which so lies anywhere in it (MUSE's
    large field of view); where the region is larger than the window, among those inside the region. In both cases it
    keeps to the picture as far as that can be.

    Args:
        size: (B, 2) width and height of the pictures.
        region: (B, 4) left, top, right, bottom of the bounding boxes of what was annotated.
        reach: (B, 1) half the side of a window in picture px.
        generator: of the run.
        around: also where a window is centred anywhere in the region, so that it may reach over its border.
    """
    middle, half = (region[:, :2] + region[:, 2:]) / 2, (region[:, 2:] - region[:, :2]) / 2
    freedom = (reach - half).abs()
    if around:
        freedom = torch.maximum(freedom, half)
    nearest = torch.minimum(reach, size / 2)
    low, high = (
        torch.maximum(torch.minimum(at, size - nearest), nearest) for at in (middle - freedom, middle + freedom)
    )
    return low + torch.rand(low.shape, generator=generator) * (high - low)


def cut_windows(pictures: list[Tensor], centre: Tensor, linear: Tensor, size_px: int) -> Tensor:
    """``warp_windows`` for pictures of any size, each narrowed to what its window sees before it becomes float.

    Args:
        pictures: B of (3, h, w) uint8.
        centre: (B, 2) picture px, on the CPU.
        linear: (B, 2, 2) picture -> window, on the CPU.
        size_px: S, side of a window.

    Returns:
        (B, 3, S, S) float, 0 to 255.
    """
    half = size_px / 2 * torch.linalg.inv(linear).abs().sum(2) + 2  # (B, 2), with room for interpolation
    low = (centre - half).floor().clamp(min=0)
    high = (centre + half).ceil()
    windows = []
    for picture, middle, matrix, first, last in zip(
        pictures, centre - low, linear, low.int().tolist(), high.int().tolist(), strict=True
    ):
        (left, top), (right, bottom) = first, last
        crop = picture[:, top : max(bottom, 0), left : max(right, 0)]
        if not crop.numel():
            crop = picture.new_full((3, 1, 1), int(WHITE))
        at = middle.to(picture.device), matrix.to(picture.device)
        windows.append(warp_windows(crop[None].float(), at[0][None], at[1][None], size_px))
    return torch.cat(windows)


def read_cells(maps: list[Tensor], centre: Tensor, linear: Tensor, cells: int, cell_px: int) -> Tensor:
    """Maps of pictures, read where the cells of windows have their centres; 0 beyond a picture.

    Args:
        maps: B of (h, w).
        centre: (B, 2) picture px.
        linear: (B, 2, 2) picture -> window.
        cells: N, per side of a window.
        cell_px: pixels per cell.

    Returns:
        (B, N, N) float.
    """
    axis = (torch.arange(cells) + 0.5 - cells / 2) * cell_px
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)  # (N, N, 2)
    source = torch.einsum("bij,hwj->bhwi", torch.linalg.inv(linear), grid) + centre[:, None, None]
    column, row = source.floor().long().unbind(-1)
    read = []
    for values, x, y in zip(maps, column.to(maps[0].device), row.to(maps[0].device), strict=True):
        height, width = values.shape
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        read.append(values[y.clamp(0, height - 1), x.clamp(0, width - 1)].float() * inside)
    return torch.stack(read)
