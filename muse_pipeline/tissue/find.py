"""Find the tissue of a slide: what is stained, is no ink, and is no speck."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from muse_pipeline.tissue.glass import absorbed, estimate_glass
from muse_pipeline.tissue.mask import RoiAnnotation, TissueMask
from muse_pipeline.tissue.overview import Overview, read_overview
from muse_pipeline.tissue.pen import find_pen, is_ink
from muse_pipeline.tissue.roi import RoiArea
from muse_pipeline.tissue.specks import tidy
from muse_pipeline.tissue.stained import find_stained, is_fluorescence
from muse_pipeline.tissue.strips import map_strips, strips
from muse_pipeline.types import Slide, SlideInfo

ROI_ROWS = 16  # of mask pixels at a time: each is a polygon of some 300 bytes


@dataclass(frozen=True, eq=False)
class FoundTissue:
    """What ``muse tissue`` knows of a slide: the mask, the picture that it was found in, and warnings in words."""

    tissue: TissueMask
    overview: Overview
    warnings: tuple[str, ...]


def find_tissue(slide: Slide, info: SlideInfo, roi: BaseGeometry | None = None) -> FoundTissue:
    """Find the tissue of ``slide`` within ``roi`` (absolute level-0 px; None: everywhere).

    A slide without tissue has an empty mask and a warning.

    Raises:
        SlideError: nothing of the slide can be decoded.
    """
    cv2.setNumThreads(1)
    overview = read_overview(slide, info)
    mask, warnings = find_mask(overview.pixels, overview.mpp, overview.unread)
    mask_px = overview.mpp / np.array(info.mpp)
    area_mm2 = float(_count_on_slide(mask, np.array(info.size_px) / mask_px) * np.prod(overview.mpp) / 1e6)
    if roi is not None:
        inside = roi_coverage(roi.intersection(shapely.box(0, 0, *info.size_px)), mask.shape, mask_px)
        inside *= mask
        area_mm2 = float(inside.sum() * np.prod(overview.mpp) / 1e6)
        mask = inside > 0
        if not mask.any() and not warnings:
            warnings = ("no tissue within the region of interest",)
    tissue = TissueMask(
        mask, overview.mpp, roi, round(area_mm2, 6), fingerprint=info.fingerprint, slide_mpp=tuple(info.mpp)
    )
    return FoundTissue(tissue, overview, (*overview.warnings, *warnings))


def _count_on_slide(mask: np.ndarray, size: np.ndarray) -> float:
    """Pixels of a (h, w) mask that lie on a slide of ``size`` (w, h) such pixels; the last ones may do so in part."""
    across, down = (min(max(side - (n - 1), 0), 1) for side, n in zip(size, mask.shape[::-1], strict=True))
    rows = mask[:, :-1].sum(1) + across * mask[:, -1]
    return float(rows[:-1].sum() + down * rows[-1])


def find_mask(
    pixels: np.ndarray, mpp: np.ndarray, unread: np.ndarray | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Tissue in (h, w, 3) uint8 at about 8 um a pixel: (h, w) bool, and warnings.

    What is ``unread`` (h, w) is tissue: that it is glass nobody knows, and `tile` has to say that it is lost.
    """
    if is_fluorescence(pixels):
        return np.zeros(pixels.shape[:2], bool), ("no tissue: the slide is black, as in fluorescence",)
    glass = estimate_glass(pixels)
    pen = find_pen(map_strips(lambda strip: is_ink(absorbed(strip, glass)), pixels), mpp)
    mask = tidy(find_stained(pixels, glass) & ~pen, mpp) & ~pen
    if unread is not None:
        mask |= unread
    warnings = []
    if pen.mean() > 1e-3:
        warnings.append(f"pen marks on {pen.mean():.1%} of the slide were left out")
    if not mask.any():
        warnings.append("no tissue found")
    return mask, tuple(warnings)


def roi_coverage(roi: BaseGeometry, shape: tuple[int, int], mask_px: np.ndarray) -> np.ndarray:
    """Share of each mask pixel, (h, w) float32, that lies in ``roi``; ``mask_px`` (2,) is its size in level-0 px."""
    coverage = np.zeros(shape, np.float32)
    for place, part in _cover_strips(roi, shape, mask_px):
        coverage[place] = part
    return coverage


def measure_annotation(area: RoiArea, tissue: TissueMask, info: SlideInfo) -> RoiAnnotation:
    """Measure an area of the ROI, whose shape lies on the slide, in absolute level-0 px."""
    mask_px = tissue.mask_mpp / np.array(info.mpp)
    strips_of_it = _cover_strips(area.shape, tissue.mask.shape, mask_px)
    covered = sum(float((part * tissue.mask[place]).sum(dtype=float)) for place, part in strips_of_it)
    areas_um2 = area.shape.area * np.prod(info.mpp), covered * np.prod(tissue.mask_mpp)
    areas_mm2 = (round(float(um2) / 1e6, 6) for um2 in areas_um2)
    return RoiAnnotation(area.name, area.class_name, area.shape, *areas_mm2)


def _cover_strips(
    roi: BaseGeometry, shape: tuple[int, int], mask_px: np.ndarray
) -> Iterator[tuple[tuple[np.ndarray, ...], np.ndarray]]:
    """Places in the mask within the bounds of ``roi``, some rows at a time, with their ``roi_coverage``."""
    if roi.is_empty:
        return
    left, top, right, bottom = roi.bounds
    columns, rows = (
        np.arange(max(int(low // size), 0), min(int(high // size) + 1, n))
        for low, high, size, n in ((left, right, mask_px[0], shape[1]), (top, bottom, mask_px[1], shape[0]))
    )
    if not columns.size:
        return
    shapely.prepare(roi)
    for strip in strips(len(rows), ROI_ROWS):
        yield np.ix_(rows[strip], columns), _cover_cells(roi, columns, rows[strip], mask_px)


def _cover_cells(roi: BaseGeometry, columns: np.ndarray, rows: np.ndarray, mask_px: np.ndarray) -> np.ndarray:
    """(rows, columns) float32 of ``roi_coverage``."""
    x, y = columns * mask_px[0], rows * mask_px[1]
    cells = shapely.box(x[None], y[:, None], x[None] + mask_px[0], y[:, None] + mask_px[1])
    part = shapely.contains_properly(roi, cells).astype(np.float32)
    border = shapely.intersects(roi, cells) & (part == 0)
    part[border] = np.maximum(shapely.area(shapely.intersection(roi, cells[border])) / np.prod(mask_px), 1e-6)
    return part
