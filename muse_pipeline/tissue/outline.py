"""The outline of the tissue: as polygons for QuPath and as a picture."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import shapely
from shapely.geometry import MultiPolygon
from shapely.geometry.base import BaseGeometry

from muse_pipeline.core.errors import SlideError
from muse_pipeline.core.files import complete_file
from muse_pipeline.core.pictures import write_png
from muse_pipeline.core.types import Slide, SlideInfo
from muse_pipeline.tissue.mask import TissueMask
from muse_pipeline.tissue.overview import Overview, choose_overview_level, read_overview, strips

PICTURE_PX = 1500
MAX_REREAD_PX = 50_000_000  # number of pixels that takes about a second to read
TISSUE_RGB, ROI_RGB = (0, 150, 60), (230, 120, 0)


def trace_outline(tissue: TissueMask, info: SlideInfo) -> MultiPolygon:
    """The mask's outline along its pixels' edges, within the ROI and the scanner's bounds: valid
    polygons with holes.

    They are in absolute level-0 px, rounded to 0.1 px; the multipolygon is empty if there is no
    tissue.
    """
    pixel_px = tissue.mask_mpp / np.asarray(info.mpp)
    of_strips = []
    for strip in strips(len(tissue.mask)):  # one box per run of true pixels in a row
        change = np.diff(tissue.mask[strip].astype(np.int8), axis=1, prepend=0, append=0)
        (rows, starts), (_, stops) = np.nonzero(change == 1), np.nonzero(change == -1)
        top = strip.start + rows
        of_strips.append(shapely.union_all(shapely.box(starts, top, stops, top + 1)))
    outline = shapely.transform(shapely.union_all(of_strips), lambda xy: xy * pixel_px)
    outline = outline.intersection(shapely.box(*info.scanned_box))
    if tissue.roi is not None:
        outline = outline.intersection(tissue.roi)
    outline = shapely.normalize(shapely.set_precision(outline, 0.1))
    parts = [
        part for part in shapely.get_parts(outline) if part.geom_type == "Polygon" and part.area > 0
    ]
    return MultiPolygon(parts)


def read_thumbnail(slide: Slide, info: SlideInfo, overview: Overview) -> Overview:
    """A picture of about 1,500 px: the ``overview``, or a finer one if a small slide provides more
    detail.
    """
    target_um = float(np.multiply(info.size_px, info.mpp).max()) / PICTURE_PX
    level, _ = choose_overview_level(info, target_um)
    small = np.prod(info.level_sizes_px[level]) < MAX_REREAD_PX
    if not small or target_um >= overview.mpp.min():
        return overview
    try:
        return read_overview(slide, info, target_um)
    except SlideError:  # no part of the slide can be decoded at this level or a finer one
        return overview


def write_picture(
    path: Path | str,
    thumbnail: Overview,
    outline: BaseGeometry,
    roi: BaseGeometry | None,
    info: SlideInfo,
) -> None:
    """Write ``tissue.png``: the slide with the outline of its tissue and of its ROI, at most 1,500
    px wide and high.
    """
    height, width = thumbnail.pixels.shape[:2]
    um = thumbnail.mpp * (width, height)
    scale = min(PICTURE_PX / max(um), 1 / thumbnail.mpp.min())
    size = tuple(int(side) for side in np.maximum(np.round(um * scale), 1))
    picture = cv2.resize(thumbnail.pixels, size, interpolation=cv2.INTER_AREA)
    to_picture = np.asarray(info.mpp) * scale
    thickness = 1 + max(size) // 600
    _draw(picture, outline, to_picture, TISSUE_RGB, thickness)
    if roi is not None:
        _draw(picture, roi, to_picture, ROI_RGB, thickness)
    with complete_file(path) as partial:
        write_png(partial, picture)


def _draw(
    picture: np.ndarray, shape: BaseGeometry, scale_xy: np.ndarray, colour, thickness: int
) -> None:
    rings = [
        shapely.get_coordinates(ring) * scale_xy
        for part in shapely.get_parts(shape)
        if part.geom_type == "Polygon"
        for ring in (part.exterior, *part.interiors)
    ]
    points = [np.round(ring * 16).clip(-1e9, 1e9).astype(np.int32) for ring in rings]
    cv2.polylines(picture, points, True, colour, thickness, cv2.LINE_AA, shift=4)
