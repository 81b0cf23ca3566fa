"""Pale chromatin: nuclei of training windows are made vesicular, clear inside with a dark rim and perhaps a nucleolus.

Large nuclei of metastases and of other organs often look like this, those of the training pictures seldom do.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

MIN_RADIUS_UM = 3.5  # smaller nuclei stay dark, as those of lymphocytes are
REACH_UM = 16.0  # how far from its centre a nucleus is painted
NUCLEI = 0.75  # share of a window's nuclei
STRENGTH, STRENGTH_SD = (0.3, 0.9), 0.12  # share of the clear colour: by window, and between its nuclei
RIM_UM = (0.25, 0.85)  # how wide the rim is that stays dark
SOFT_UM = 0.2  # of the edge of the rim
LEVEL = (0.3, 0.75)  # the clear colour among those of the window's tissue, from dark to bright
GLASS = 215  # grey level; brighter in every channel is no tissue
NUCLEOLI, NUCLEOLUS_UM, NUCLEOLUS_DARK = 0.5, (0.5, 1.1), 0.35  # how many nuclei have one, its radius, how dark it is
GRAIN, GRAIN_PX = 0.25, 3  # unevenness of the inside


def pale_chromatin(
    pixels: Tensor, xy: Tensor, rays: Tensor, mpp: float, share: float, generator: torch.Generator
) -> Tensor:
    """Make large nuclei of some windows vesicular; nuclei without an outline stay as they are.

    Args:
        pixels: (B, 3, S, S), 0 to 255.
        xy: (B, M, 2) centres, window px.
        rays: (B, M, R) um, NaN unknown.
        mpp: um per pixel.
        share: of the windows, 0 to 1.
        generator: of every random number, on the CPU.

    Returns:
        (B, 3, S, S), 0 to 255.
    """
    device, n_windows, side = pixels.device, len(pixels), pixels.shape[-1]

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return (low + (high - low) * torch.rand(*shape, generator=generator)).to(device)

    strength, rim_um, level = (draw(*limits, n_windows) for limits in (STRENGTH, RIM_UM, LEVEL))
    is_pale = draw(0, 1, n_windows) < share
    is_pale = is_pale[:, None] & (draw(0, 1, *rays.shape[:2]) < NUCLEI) & (rays.mean(-1) >= MIN_RADIUS_UM)
    window, nucleus = is_pale.nonzero(as_tuple=True)
    n = len(window)
    spread = (STRENGTH_SD * torch.randn(n, generator=generator)).to(device)
    strength = (strength[window] + spread).clamp(0, 0.95)[:, None]
    offset_um, depth_um, pixel = _around(xy[window, nucleus], rays[window, nucleus], mpp, side)
    inside = torch.sigmoid((depth_um - rim_um[window, None]) / SOFT_UM)

    angle, reach = draw(0, 2 * math.pi, n), draw(0, 0.5, n) * rays[window, nucleus].mean(-1)
    middle = torch.stack([angle.cos(), angle.sin()], -1) * reach[:, None]
    across = (offset_um - middle[:, None]).norm(dim=-1) / draw(*NUCLEOLUS_UM, n)[:, None]
    nucleolus = torch.exp(-(across**4)) * (draw(0, 1, n) < NUCLEOLI)[:, None]

    grain = torch.randn(n_windows, 1, -(-side // GRAIN_PX), -(-side // GRAIN_PX), generator=generator).to(device)
    grain = 1 + GRAIN * functional.interpolate(grain, size=(side, side), mode="bilinear")
    clear = _paint(inside * (1 - nucleolus) * strength, pixel, window, pixels) * grain
    dark = _paint(inside * nucleolus * NUCLEOLUS_DARK, pixel, window, pixels)
    colour = torch.stack([_tissue_colour(*each) for each in zip(pixels, level.tolist(), strict=True)])
    return pixels.lerp(colour[..., None, None], clear.clamp(0, 1)) * (1 - dark)


def _around(xy: Tensor, rays: Tensor, mpp: float, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """The P pixels around each of n nuclei.

    Returns:
        (n, P, 2) um from the centre; (n, P) um inwards from the outline; (n, P) index in the window, -1 outside of it.
    """
    reach = math.ceil(REACH_UM / mpp)
    axis = torch.arange(-reach, reach, device=xy.device)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).view(1, -1, 2)
    at = xy.floor().long()[:, None] + grid  # (n, P, 2)
    offset_um = (at + 0.5 - xy[:, None]) * mpp
    n_rays = rays.shape[-1]
    position = torch.atan2(offset_um[..., 1], offset_um[..., 0]) * (n_rays / (2 * math.pi)) % n_rays
    below = position.floor()
    index = below.long() % n_rays
    outline = rays.gather(1, index).lerp(rays.gather(1, (index + 1) % n_rays), position - below)
    is_inside = ((at >= 0) & (at < side)).all(-1)
    return offset_um, outline - offset_um.norm(dim=-1), torch.where(is_inside, at[..., 1] * side + at[..., 0], -1)


def _paint(values: Tensor, pixel: Tensor, window: Tensor, pixels: Tensor) -> Tensor:
    """(B, 1, S, S): the largest of the ``values`` (n, P) at each pixel of each window, 0 where there is none."""
    n_windows, _, side, _ = pixels.shape
    known = pixel >= 0
    index = (window[:, None] * side * side + pixel)[known]
    painted = pixels.new_zeros(n_windows * side * side).scatter_reduce_(0, index, values[known].to(pixels), "amax")
    return painted.view(n_windows, 1, side, side)


def _tissue_colour(window: Tensor, level: float) -> Tensor:
    """(3,) the value of each channel below which the share ``level`` of the tissue of a window (3, S, S) lies."""
    some = window.flatten(1)[:, ::37]
    tissue = some[:, some.amin(0) < GLASS]
    return (tissue if tissue.shape[1] else some).quantile(level, dim=1)
