"""The slide seen from afar: grey tissue, its outline, and where the nuclei are dense."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from muse_pipeline.report.density import CELL_UM, DensityGrid
from muse_pipeline.report.drawing import FAINT, STRIP_PX, add_strip, save_picture, write_text
from muse_pipeline.tissue.strips import map_strips

LONG_SIDE_PX = 900
_OUTLINE = (74, 84, 98)
_GLASS_GREY = 236
# Pale yellow over orange to deep violet: rising darkness reads as rising density, also without colour vision.
_RAMP = np.array([(255, 240, 178), (254, 196, 96), (240, 120, 62), (200, 52, 84), (128, 20, 108), (62, 10, 92)], float)


def draw_density(grid: DensityGrid, mask: np.ndarray, backdrop: Iterable[np.ndarray], path: Path) -> None:
    """Write the heat map of a slide as PNG.

    Args:
        grid: nuclei counted over the whole slide; there may be none.
        mask: (h, w) bool tissue mask that covers the whole slide.
        backdrop: red, green and blue, each (h, w) uint8, of a picture of the whole slide at any size; taken one by one.
        path: where the PNG goes.
    """
    um_per_px = max(grid.size_um) / LONG_SIDE_PX
    size = tuple(max(1, round(extent / um_per_px)) for extent in grid.size_um)
    picture = _pale_grey(cv2.merge([cv2.resize(plane, size, interpolation=cv2.INTER_AREA) for plane in backdrop]))
    density = _resample_density(grid, size, um_per_px)
    top = _round_up(np.percentile(density[density > 1], 99.5)) if (density > 1).any() else 1.0
    strength = np.clip(density / top, 0, 1)
    inside = _resample_mask(mask, size) > 0.5
    picture[~inside] = 255  # the store holds whole chunks: a pen mark beside tissue would end at their edges
    opacity = (np.clip(strength * 8, 0, 0.8) * inside)[..., None]
    picture = np.round(picture * (1 - opacity) + _heat_colours(strength) * opacity).astype(np.uint8)
    _draw_outline(picture, inside)
    canvas, pen, left = add_strip(picture, um_per_px)
    _add_colour_bar(canvas, pen, left + 8, top)
    save_picture(canvas, path)


def _pale_grey(picture: np.ndarray) -> np.ndarray:
    """Tissue in pale grey; glass white, whether the store holds it or not."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(float)
    return np.repeat((255 - 0.65 * np.clip(_GLASS_GREY - grey, 0, None))[..., None], 3, axis=2)


def _resample_density(grid: DensityGrid, size: tuple[int, int], um_per_px: float) -> np.ndarray:
    """Nuclei per mm2, smoothed over about one cell, at every px of a picture of ``size``."""
    smooth = cv2.GaussianBlur(grid.per_mm2, (0, 0), 0.8, borderType=cv2.BORDER_REPLICATE)
    scale = um_per_px / CELL_UM
    shift = 0.5 * scale - 0.5  # centres of px onto centres of cells
    to_cells = np.array([[scale, 0, shift], [0, scale, shift]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(smooth, to_cells, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _resample_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w) float32 of a bool mask at another ``size``, linear; along the rows first, so that little is float."""
    narrow = map_strips(lambda strip: cv2.resize(strip.astype(np.float32), (size[0], len(strip))), mask)
    return cv2.resize(narrow, size)


def _heat_colours(strength: np.ndarray) -> np.ndarray:
    stops = np.linspace(0, 1, len(_RAMP))
    return np.stack([np.interp(strength, stops, channel) for channel in _RAMP.T], axis=-1)


def _draw_outline(picture: np.ndarray, inside: np.ndarray) -> None:
    contours, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(picture, contours, -1, _OUTLINE, 1, cv2.LINE_AA)


def _add_colour_bar(canvas: Image.Image, pen: ImageDraw.ImageDraw, left: int, top: float) -> None:
    width = min(160, canvas.width - left - 190)
    if width < 40:  # a slide so narrow that the strip holds the scale bar alone
        return
    middle = canvas.height - STRIP_PX // 2
    start = write_text(pen, (left, middle), "0", FAINT) + 8
    bar = np.repeat(_heat_colours(np.linspace(0, 1, width))[None], 12, axis=0)
    canvas.paste(Image.fromarray(np.round(bar).astype(np.uint8)), (start, middle - 6))
    write_text(pen, (start + width + 8, middle), f"{top:,.0f} nuclei/mm2")


def _round_up(value: float) -> float:
    """The next number with two digits."""
    step = 10.0 ** max(0, np.floor(np.log10(value)) - 1)
    return float(np.ceil(value / step) * step)
