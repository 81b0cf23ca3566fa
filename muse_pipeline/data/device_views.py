"""Pixels of the views of a batch, cut on the training device from one window of the image per set.

Reduction by averages (as ``cv2.INTER_AREA``), blur and mirroring are linear along each axis, so all views of a size are
cut by two products of matrices. On a CPU, which uses ``View.cut``, this takes twenty times as long.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from muse_pipeline.data.augment import NOISE_STD, noise_table

N_AT_ONCE = 64  # views that are cut at once, to limit memory


class Cuts(NamedTuple):
    """Geometry and sharpness of V views of one size, which are cut from windows."""

    size_px: int  # R, side of the views
    most_px: int  # largest side in image px
    # (V, 8) int64: index of the window's first pixel, width of the window, x and y of the view's corner in the window,
    # side in image px, mirror, quarter turns, and offset of the noise in its table
    places: Tensor
    blur: Tensor  # (V, 2) float32: sigma and radius, px
    level: Tensor  # (V,) float32 standard deviation of the noise, in grey levels


def cut_views(windows: Tensor, cuts: Cuts) -> Tensor:
    """Cut the pixels (V, 3, R, R) uint8 from ``windows`` (N, 3), the pixels of all windows of a batch, row by row."""
    parts = zip(*(part.split(N_AT_ONCE) for part in cuts[2:]), strict=True)
    return torch.cat([_cut_some(windows, Cuts(cuts.size_px, cuts.most_px, *part)) for part in parts])


def _cut_some(windows: Tensor, cuts: Cuts) -> Tensor:
    first, width, x, y, side, mirror, turns, offset = cuts.places.T
    # Columns and rows beyond a view's side have the weight 0.
    pixel = torch.arange(cuts.most_px, device=windows.device).minimum(side[:, None] - 1)  # (V, S)
    rows = first[:, None] + (y[:, None] + pixel) * width[:, None]
    index = rows[:, :, None] + (x[:, None] + pixel)[:, None]
    source = windows[index].permute(0, 3, 1, 2).float()  # (V, 3, S, S)
    weights = _weigh_pixels(cuts, side)
    # Turning is a transposition and up to two reversals.
    is_reversed = (turns == 2) | (turns == 3), (mirror > 0) ^ ((turns == 1) | (turns == 2))
    down, across = (torch.where(each[:, None, None], weights.flip(1), weights)[:, None] for each in is_reversed)
    pixels = down @ source @ across.mT
    pixels = torch.where((turns % 2 > 0)[:, None, None, None], pixels.mT, pixels)
    return (pixels + _noise(cuts, offset)).round_().clamp_(0, 255).byte()


def _weigh_pixels(cuts: Cuts, side: Tensor) -> Tensor:
    """(V, R, S) weights of the S pixels along an axis of each view in its R pixels, blurred, before any reversal."""
    ratio = (side / cuts.size_px)[:, None, None]
    place, pixel = (torch.arange(n, device=side.device) for n in (cuts.size_px, cuts.most_px))
    # Each pixel of a view is the mean over its own width or, in views finer than the image, over a pixel of the image.
    centre, half = (place[:, None] + 0.5) * ratio, ratio.clamp(min=1) / 2
    overlap = torch.minimum(centre + half, pixel + 1) - torch.maximum(centre - half, pixel)
    overlap = overlap.clamp(min=0) * (pixel < side[:, None, None])
    return _blur_weights(cuts, place) @ (overlap / overlap.sum(2, keepdim=True))


def _blur_weights(cuts: Cuts, place: Tensor) -> Tensor:
    """(V, R, R) weights of a view's pixels along an axis in its blurred pixels; borders are mirrored."""
    sigma, radius = cuts.blur[..., None, None].unbind(1)
    last = cuts.size_px - 1
    direct = place - place[:, None]
    before, after = -place - place[:, None], 2 * last - place - place[:, None]  # distances to mirror images
    images = direct, before.where(place > 0, cuts.size_px), after.where(place < last, cuts.size_px)
    # A sigma of 0 stands for no blur.
    weights = sum(
        torch.exp(-0.5 * (distance / sigma.clamp(min=1e-3)) ** 2) * (distance.abs() <= radius) for distance in images
    )
    return weights / weights.sum(2, keepdim=True)


def _noise(cuts: Cuts, offset: Tensor) -> Tensor:
    """(V, 3, R, R) noise from the table."""
    n = 3 * cuts.size_px**2
    table = _table_on(n, offset.device)
    noise = table[offset[:, None] + torch.arange(n, device=offset.device)].view(-1, cuts.size_px, cuts.size_px, 3)
    return noise.permute(0, 3, 1, 2) * (cuts.level / NOISE_STD)[:, None, None, None]


@lru_cache
def _table_on(n: int, device: torch.device) -> Tensor:
    return torch.from_numpy(noise_table(n)).to(device)
