"""Render the plan of a synthetic slide as pixels: any block at any pixel size, reproducibly.

The space between nuclei is collagen, cytoplasm of glands, or empty. All of it is painted as amounts of haematoxylin and
eosin, which are converted to light at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from muse_pipeline.demo.field import FLOW_SLOPE, Window, smoothstep
from muse_pipeline.demo.layout import HAEMATOXYLIN, Island
from muse_pipeline.demo.stamps import DENSITY_STEP, RED_CELL
from muse_pipeline.demo.tissue import CELL_REACH_UM, Tissue, cells_in


@dataclass(frozen=True)
class Ground:
    """Maps and textures in a window of the field, (h, w) float32 each, mostly named as in ``Field`` and ``Tissue``."""

    depth: np.ndarray
    hollow: np.ndarray
    loose: np.ndarray
    crowd: np.ndarray
    unevenness: np.ndarray
    defocus: np.ndarray
    fibre: np.ndarray
    cleft: np.ndarray
    fine: np.ndarray
    coarse: np.ndarray


def survey(tissue: Tissue, window: Window) -> Ground:
    """Sample the maps and textures in ``window``, which is given in um of the field."""
    depth, hollow, flow, loose = cv2.split(tissue.field.shape.view(window))
    crowd, _, unevenness, defocus = cv2.split(tissue.field.state.view(window))
    fine, coarse = cv2.split(tissue.grain.view(window))
    x, y = window.centres()
    flow += np.float32(FLOW_SLOPE) * y + 0.5 * coarse + 0.2 * fine
    fibre, thin, cleft = cv2.split(tissue.fibres.at(x + 0.25 * y + 2 * coarse, flow))
    hollow += 0.5 * coarse * (depth > 0)  # frayed free ends of gland cells
    return Ground(depth, hollow, loose, crowd, unevenness, defocus, 0.6 * fibre + 0.4 * thin, cleft, fine, coarse)


def stain_ground(ground: Ground) -> np.ndarray:
    """Amounts of haematoxylin and eosin, (h, w, 2) float32, before nuclei are added."""
    gland = smoothstep(ground.depth, -0.8, 0.8)
    haematoxylin, eosin = _mix(_stain_stroma(ground), _stain_gland(ground), gland)
    empty = smoothstep(ground.hollow, -0.7, 0.7)
    secretion = smoothstep(ground.unevenness, 0.2, 1.1) * gland * (0.16 + 0.05 * ground.coarse)
    eosin += 0.16 * cv2.exp(-((ground.hollow + 1.1) ** 2))  # lining of every empty space
    haematoxylin, eosin = _mix((haematoxylin, eosin), (0.0, secretion), empty)
    thickness = 1 + 0.05 * ground.unevenness
    return cv2.merge([haematoxylin * thickness, eosin * thickness])


def _stain_stroma(ground: Ground) -> tuple[np.ndarray, np.ndarray]:
    """Stains of collagen: dense or loose, pale among lymphocytes, with clefts between bundles."""
    loose, fibre = ground.loose, ground.fibre
    eosin = 0.68 + 0.20 * fibre + 0.07 * ground.fine - loose * (0.34 - 0.04 * fibre)
    haematoxylin = 0.05 + 0.10 * loose + 0.05 * fibre * loose + 0.03 * ground.fine
    eosin += 0.8 * ground.crowd * (0.20 + 0.09 * ground.coarse + 0.06 * ground.fine - eosin)
    haematoxylin += 0.08 * ground.crowd
    eosin += 0.14 * cv2.exp(-((ground.depth + 0.6) ** 2) / 0.7)  # basement membrane
    there = 1 - 0.92 * _gaps(ground)
    return np.maximum(haematoxylin, 0.02) * there, np.maximum(eosin, 0.04) * there


def _gaps(ground: Ground) -> np.ndarray:
    """Gaps in the collagen: clefts along its fibres, and a rim around some shrunken glands."""
    cleft = smoothstep(ground.cleft + 0.25 * ground.loose - 0.8 * ground.crowd, 1.45, 1.8)
    rim = smoothstep(ground.depth, -5.5, -3.5) * smoothstep(ground.depth, -0.4, -1.6)
    return np.maximum(cleft, rim * smoothstep(ground.unevenness + 0.4 * ground.fibre, 0.3, 0.9))


def _stain_gland(ground: Ground) -> tuple[np.ndarray, np.ndarray]:
    """Stains of the grainy cytoplasm, paler towards the lumen."""
    apex = smoothstep(ground.hollow, -11, -1)
    haematoxylin = 0.30 + 0.07 * ground.coarse + 0.05 * ground.fine - 0.06 * apex
    eosin = 0.44 + 0.08 * ground.coarse + 0.06 * ground.fine - 0.12 * apex
    return haematoxylin, eosin


def _mix(below: tuple, above: tuple, part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``below`` where ``part`` is 0, ``above`` where it is 1."""
    return tuple(low + part * (high - low) for low, high in zip(below, above, strict=True))


FINEST_MPP = 0.25  # coarser slides are painted at this pixel size or finer, then averaged as by a camera
HALO_UM, FOLD_HALO_UM = 4.0, 28.0
BLOCK_PX = 512  # side of a block that fits in the CPU's caches
OPTICS_UM, DEFOCUS_UM = 0.22, 0.95  # standard deviations of the blur
GLASS = (243, 243, 245)
PEN_DENSITY = np.array([1.55, 0.95, 0.28], np.float32)
CELL_EOSIN = np.array([0.22, 0.20, 0.28, 1.15], np.float32)  # amount of eosin in the cells of each kind
BROWN = np.array([0.62, 1.31, 1.79])  # optical density of DAB in place of a unit of haematoxylin
SECOND_STAINS = np.stack([0.55 * HAEMATOXYLIN, 0.06 * HAEMATOXYLIN, 0.6 * BROWN])  # nuclei, background, marked nuclei


def paint_block(tissue: Tissue, window: Window, marked: int | None = None) -> np.ndarray:
    """The pixels (h, w, 3) uint8 of a rectangle, painted block by block.

    Args:
        tissue: plan of the slide.
        window: rectangle to paint, in um on the glass.
        marked: index in ``stamps.CLASSES`` of the nuclei that an immunostain marks brown; None for H&E.
    """
    width, height = window.size
    times = max(1, int(np.ceil(window.mpp / FINEST_MPP - 1e-9)))
    side = max(1, BLOCK_PX // times)
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, side):
        for left in range(0, width, side):
            size = min(side, width - left), min(side, height - top)
            corner = window.x_um + left * window.mpp, window.y_um + top * window.mpp
            block = _paint_block(tissue, Window(*corner, window.mpp, size), times, marked)
            pixels[top : top + size[1], left : left + size[0]] = block
    return pixels


def _paint_block(tissue: Tissue, window: Window, times: int, marked: int | None) -> np.ndarray:
    fine = Window(window.x_um, window.y_um, window.mpp / times, (window.size[0] * times, window.size[1] * times))
    density = np.zeros((*fine.size[::-1], 3), np.float32)
    for island in tissue.layout.islands:
        if island.may_show(fine):
            density += _paint_island(tissue, island, fine, marked)
    if marked is None and tissue.layout.pen.may_show(fine):
        density += _paint_pen(tissue, fine)
    light = cv2.exp(-density) * np.array(GLASS, np.float32)
    if times > 1:
        light = cv2.resize(light, window.size, interpolation=cv2.INTER_AREA)
    return np.clip(np.rint(light + _camera_noise(tissue.noise, window)), 0, 255).astype(np.uint8)


def is_blank(tissue: Tissue, window: Window) -> bool:
    """True if a window shows only glass."""
    return not any(thing.may_show(window) for thing in (*tissue.layout.islands, tissue.layout.pen))


def _paint_island(tissue: Tissue, island: Island, window: Window, marked: int | None) -> np.ndarray:
    """Optical density (h, w, 3) float32 of an island, computed with a halo for the blur and the fold."""
    folded = tissue.layout.fold.may_show(window)
    halo = int(np.ceil((FOLD_HALO_UM if folded else HALO_UM) / window.mpp))
    wide = window.widened(halo)
    ground = survey(tissue, wide.moved(*island.shift_um))
    stain = stain_ground(ground)
    if marked is not None:
        stain = np.dstack([stain, np.zeros_like(stain[..., 0])])
    _press_cells(tissue, island, stain, wide, marked)
    if island.extent_um(wide)[0] < 0:
        stain *= smoothstep(island.inside_um(*wide.centres(), tissue.rag), -1.5, 1.5)[..., None]
    if folded:
        stain = _fold(tissue, stain, wide)
    stain = _focus(stain, ground.defocus, window.mpp)[halo:-halo, halo:-halo]
    stains = island.stains if marked is None else SECOND_STAINS
    return cv2.transform(stain, np.ascontiguousarray(stains.T))


def _press_cells(tissue: Tissue, island: Island, stain: np.ndarray, window: Window, marked: int | None) -> None:
    cells = cells_in(tissue, island, window, CELL_REACH_UM)
    rows, columns = stain.shape[:2]
    strength = np.where(cells.kind == RED_CELL, 1, cells.strength) * DENSITY_STEP
    positions = zip(
        cells.stamp, *cells.xy_um.T, cells.angle, cells.mirror, cells.scale, strength, cells.kind, strict=True
    )
    for stamp, x, y, angle, mirror, scale, amount, kind in positions:
        (row, column), pressed = tissue.stamps.press(stamp, x, y, angle, mirror, scale, window)
        top, left = max(row, 0), max(column, 0)
        pressed = pressed[top - row : max(rows - row, 0), left - column : max(columns - column, 0)]
        under = stain[top : top + pressed.shape[0], left : left + pressed.shape[1]]
        pressed = pressed * np.array([1 / 255, amount], np.float32)
        cover = pressed[..., :1]
        under *= 1 - 0.8 * cover
        under[..., 2 if kind == marked else 0] += pressed[..., 1]
        under[..., 1] += CELL_EOSIN[kind] * cover[..., 0]


def _fold(tissue: Tissue, stain: np.ndarray, window: Window) -> np.ndarray:
    """Add a second layer of tissue within the fold, displaced and out of focus."""
    shift = np.array([[1, 0, 13.0 / window.mpp], [0, 1, -17.0 / window.mpp]])
    second = cv2.GaussianBlur(stain, (0, 0), 1.6 / window.mpp)
    second = cv2.warpAffine(second, shift, window.size, borderMode=cv2.BORDER_REPLICATE)
    inside = tissue.layout.fold.inside_um(*window.centres())
    ridge = 0.85 + 0.35 * np.exp(-((inside - 3) ** 2) / 12)
    return stain + (smoothstep(inside, -1.5, 1.5) * ridge)[..., None] * second


def _focus(stain: np.ndarray, defocus: np.ndarray, mpp: float) -> np.ndarray:
    sharp = cv2.GaussianBlur(stain, (0, 0), OPTICS_UM / mpp)
    if not defocus.any():
        return sharp
    return sharp + defocus[..., None] * (cv2.GaussianBlur(stain, (0, 0), DEFOCUS_UM / mpp) - sharp)


def _paint_pen(tissue: Tissue, window: Window) -> np.ndarray:
    x, y = np.broadcast_arrays(*window.centres())
    inside = tissue.layout.pen.inside_um(x, y) + 5 * tissue.rag.at(x, y)
    streaks = 0.85 + 0.07 * tissue.rag.at(6 * x, 0.3 * y)
    return (smoothstep(inside, -5, 8) * streaks)[..., None] * PEN_DENSITY


def _camera_noise(noise: np.ndarray, window: Window) -> np.ndarray:
    """Camera noise in grey levels, (h, w, 3); the noise of a pixel does not depend on the window."""
    column, row = (round(start / window.mpp) for start in (window.x_um, window.y_um))
    rows = noise[np.arange(row, row + window.size[1]) % len(noise)]
    return rows.take(np.arange(column, column + window.size[0]) % len(noise), axis=1)
