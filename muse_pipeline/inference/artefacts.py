"""Areas of a slide that are out of focus or inked, where nuclei are not to be trusted: found in its image alone.

Out of focus. A picture is blurred repeatedly, each time twice as much, from 0.5 to 2 um; what a blur removes is the
detail of that size. In tissue in focus the detail of 0.5 to 1 um has 0.4 to 2 times the energy of that of 1 to 2 um,
whatever the stain and the contrast; a defocus of 1 um leaves a third. The noise of the camera is measured in the finest
detail and subtracted. Ink. Colours that neither stain has, see ``tissue.background.find_ink``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import shapely

from muse_pipeline.core.process import map_in_order
from muse_pipeline.core.types import SlideInfo
from muse_pipeline.qupath.regions import ClassArea, write_class_areas
from muse_pipeline.store.store import Store
from muse_pipeline.tissue.background import coarsen, find_ink
from muse_pipeline.tissue.mask import TissueMask
from muse_pipeline.tissue.stain import DENSITY

KINDS = ("blurred", "ink")
COLORS = ((255, 170, 0), (60, 60, 60))
CLEAN = -1
MPP = 0.5  # um per pixel at which focus is judged
CELL_UM = 16.0
_CELL_PX = 32
MIN_RATIO = 0.32  # of the energies; chosen on BRCA-M2C, docs/results.md, "Areas out of focus and in ink"
MIN_ENERGY = 0.5  # grey levels squared; with less there is nothing to be sharp
MIN_AREA_MM2 = 0.004  # smaller areas out of focus are dropped
_NOISE = (0.0314, 0.0106)  # energy of white noise in both details, for 1 in the finest
MIN_TISSUE = 0.6  # of a cell; the edge of tissue is no detail of it
MAX_GREY = 220  # of 255; brighter is glass
_BLOCK_CELLS = 16  # a chunk of the image at 0.5 um/px
_HALO_PX = 40  # how far the blurs and the search for ink reach
_READ_PX = _BLOCK_CELLS * _CELL_PX + 2 * _HALO_PX  # side of a block and its halo
_STEPS = 64  # per grey level: 16-bit blur is exact, and so the same on every machine


@dataclass(frozen=True, eq=False)
class ArtefactMap:
    """What is wrong with each cell of a slide.

    Attributes:
        kind: (rows, columns) int8 index into ``kinds``, or ``CLEAN``; the corner of the first is that of level 0.
        area_mm2: tissue of each kind.
        slide_mpp: (x, y) um per level-0 pixel.
        kinds: their names.
    """

    kind: np.ndarray
    area_mm2: dict[str, float]
    slide_mpp: tuple[float, float]
    kinds: tuple[str, ...] = KINDS

    def at(self, xy: np.ndarray) -> np.ndarray:
        """(N,) int32 kinds at positions (N, 2) in level-0 px."""
        last = np.array(self.kind.shape[::-1]) - 1
        column, row = (np.asarray(xy) * self.slide_mpp / CELL_UM).astype(int).clip(0, last).T
        return self.kind[row, column].astype(np.int32)

    def describe(self) -> dict[str, Any]:
        """For the provenance of the table."""
        return {"mpp": MPP, "cell_um": CELL_UM, "area_mm2": self.area_mm2}

    def write_outlines(self, path: Path, info: SlideInfo) -> None:
        """Write the areas as annotations for QuPath, classified by kind."""
        areas, to_level0 = [], CELL_UM / np.array(self.slide_mpp)
        for number, (name, color) in enumerate(zip(self.kinds, COLORS, strict=True)):
            row, column = np.nonzero(self.kind == number)
            outlines = shapely.union_all(shapely.box(column, row, column + 1, row + 1))
            slide = shapely.box(0, 0, *info.size_px)
            parts = shapely.get_parts(slide & shapely.transform(outlines, lambda xy: xy * to_level0))
            areas += [ClassArea(name.capitalize(), color, part) for part in parts]
        write_class_areas(path, areas, info, "artefacts")


def find_artefacts(store: Store, tissue: TissueMask, threads: int = 1) -> ArtefactMap:
    """Find the areas of a slide that are out of focus or inked, in its image at ``MPP``.

    Args:
        store: the image, at ``MPP`` or a finer mpp that divides it.
        tissue: of the slide; what lies outside counts in no area.
        threads: change no result.

    Raises:
        StoreError: the image is coarser, or a chunk of it is damaged.
    """
    cv2.setNumThreads(1)
    image = store.at(MPP)
    image.keep_chunks(64)
    columns, rows = (-(-side // _CELL_PX) for side in image.size_px)
    cells = np.zeros((rows, columns, 4), np.float32)
    corners = list(_blocks(image, rows, columns))
    measured = map_in_order(lambda corner: _measure_block(image, corner), corners, threads)
    for (row, column), block in zip(corners, measured, strict=True):
        part = cells[row : row + _BLOCK_CELLS, column : column + _BLOCK_CELLS]
        part[:] = block[: part.shape[0], : part.shape[1]]
    kind = np.full((rows, columns), CLEAN, np.int8)
    for number, mask in enumerate((_find_blurred(*np.moveaxis(cells[..., :3], -1, 0)), _find_inked(cells[..., 3]))):
        kind[mask] = number
    return ArtefactMap(kind, _measure_areas(kind, tissue), store.slide_mpp)


def _measure_areas(kind: np.ndarray, tissue: TissueMask) -> dict[str, float]:
    """mm2 of tissue of each kind."""
    row, column = (
        ((np.arange(n) + 0.5) * um / CELL_UM).astype(int).clip(0, n_cells - 1)
        for n, um, n_cells in zip(tissue.mask.shape, tissue.mask_mpp[::-1], kind.shape, strict=True)
    )
    found = kind[np.ix_(row, column)][tissue.mask]  # a byte per pixel: masks of large slides have 20 million
    n = np.array([np.count_nonzero(found == number) for number in range(len(KINDS))])
    return dict(zip(KINDS, np.round(n * np.prod(tissue.mask_mpp) / 1e6, 6).tolist(), strict=True))


def _blocks(image: Store, rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """(row, column) of the first cell of every block that has tissue."""
    tissue, side_px = image.tissue
    step = _CELL_PX / side_px
    for row in range(0, rows, _BLOCK_CELLS):
        for column in range(0, columns, _BLOCK_CELLS):
            (top, bottom), (left, right) = (
                (int(first * step), int((first + _BLOCK_CELLS) * step) + 1) for first in (row, column)
            )
            if tissue[top:bottom, left:right].any():
                yield row, column


def _measure_block(image: Store, corner: tuple[int, int]) -> np.ndarray:
    """(n, n, 4) of the cells of a block: energy of detail of both sizes, share of tissue, share of ink."""
    row, column = corner
    pixels = image.read((column * _CELL_PX - _HALO_PX, row * _CELL_PX - _HALO_PX), (_READ_PX, _READ_PX))
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    ink = find_ink(DENSITY[coarsen(pixels)])
    measures = (*_measure_detail(grey), _average(grey < MAX_GREY), _average(ink))
    return np.stack(measures, -1)


def _measure_detail(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Energy of the detail of 0.5 to 1 um and of 1 to 2 um in the cells of (h, w) uint8 pixels with their halo."""
    grey = grey.astype(np.uint16) * _STEPS
    soft = cv2.GaussianBlur(grey, (0, 0), 1.0)
    small = cv2.resize(soft, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    softer = cv2.GaussianBlur(small, (0, 0), 0.87)
    softest = cv2.GaussianBlur(small, (0, 0), 1.94)
    noise, fine, coarse = (
        _average(np.square(cv2.subtract(one, other, dtype=cv2.CV_32F) * (1 / _STEPS)))
        for one, other in ((grey, soft), (small, softer), (softer, softest))
    )
    return fine - _NOISE[0] * noise, coarse - _NOISE[1] * noise


def _average(values: np.ndarray) -> np.ndarray:
    """Means (n, n) float32 over the cells of a block, of values at any resolution that covers block and halo."""
    halo = values.shape[0] * _HALO_PX // _READ_PX
    inner = np.ascontiguousarray(values[halo:-halo, halo:-halo], np.float32)
    return cv2.resize(inner, (_BLOCK_CELLS, _BLOCK_CELLS), interpolation=cv2.INTER_AREA)


def _find_blurred(fine: np.ndarray, coarse: np.ndarray, tissue: np.ndarray) -> np.ndarray:
    """(rows, columns) bool of the cells out of focus; each is judged with the cells around it that are tissue."""
    is_tissue = tissue > MIN_TISSUE
    share, fine, coarse = (
        cv2.blur(each * is_tissue, (3, 3), borderType=cv2.BORDER_REPLICATE)
        for each in (np.ones_like(fine), fine, coarse)
    )
    coarse = np.where(is_tissue, coarse / np.maximum(share, 0.1), 0)
    fine = np.where(is_tissue, fine / np.maximum(share, 0.1), 0)
    blurred = (coarse > MIN_ENERGY) & (fine < MIN_RATIO * coarse) & is_tissue
    closed = cv2.morphologyEx(blurred.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8)) > 0
    return _widen(_drop_small(closed))


def _find_inked(ink: np.ndarray) -> np.ndarray:
    """(rows, columns) bool of the cells in ink, by its share of each."""
    inked = (ink > 0.3).astype(np.uint8)
    square = np.ones((2, 2), np.uint8)  # narrower is pigment or a fold of keratin
    wide = cv2.dilate(cv2.erode(inked, square, anchor=(0, 0)), square, anchor=(1, 1))
    return _widen(wide > 0)


def _drop_small(mask: np.ndarray) -> np.ndarray:
    _, number, facts, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    large = facts[:, cv2.CC_STAT_AREA] >= MIN_AREA_MM2 * 1e6 / CELL_UM**2
    large[0] = False
    return large[number]


def _widen(mask: np.ndarray) -> np.ndarray:
    """The mask and the cells around it: a cell at its edge is judged with neighbours that are in order."""
    return cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
