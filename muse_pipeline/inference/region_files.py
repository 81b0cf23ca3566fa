"""The files of a slide's regions: polygons for QuPath, the map, a picture, and a record of the
outcome.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import shapely
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFont

from muse_pipeline.cohort.layout import SlideFiles
from muse_pipeline.core.coords import work_to_level0
from muse_pipeline.core.errors import MuseError
from muse_pipeline.core.files import complete_file, remove, write_json
from muse_pipeline.core.pictures import write_png
from muse_pipeline.core.text import one_line
from muse_pipeline.core.types import SlideInfo
from muse_pipeline.inference.card import NucleusClass
from muse_pipeline.inference.region_maps import SlideMap, classify, trace_regions
from muse_pipeline.nuclei.rays import repair_areas
from muse_pipeline.qupath.regions import ClassArea, write_class_areas
from muse_pipeline.store.store import PYRAMID, Store, image_metadata
from muse_pipeline.store.zarr_files import write_group, write_planes
from muse_pipeline.tissue.overview import strips

OK, FAILED = "ok", "failed"
PICTURE_PX = 1500
CHUNK_CELLS = 512


@contextmanager
def record_failure(folder: Path, slide_id: str) -> Iterator[None]:
    """Remove the regions of an earlier run; if the block fails, leave a ``regions.json`` with the
    reason.

    Nuclei are then written without regions, and the report shows the reason.
    """
    files = SlideFiles(folder)
    written = files.region_outlines, files.region_picture, files.region_map, files.regions
    for path in written:
        remove(path)
    try:
        yield
    except Exception as error:
        for path in written:
            remove(path)
        is_expected = isinstance(error, MuseError)
        reason = one_line(error if is_expected else f"unexpected {type(error).__name__}: {error}")
        write_json(files.regions, {"status": FAILED, "reason": reason, "slide_id": slide_id})
        remove(files.request("regions"))  # so that the next run tries again
        raise


def write_regions(maps: SlideMap, store: Store, info: SlideInfo, folder: Path) -> dict[str, Any]:
    """Write all files of a slide's regions, ``regions.json`` last, and return its content."""
    classes = maps.classes
    polygons, label = trace_regions(classify(maps))
    level0 = [_to_level0(polygon, maps, info) for polygon in polygons]
    areas = [
        ClassArea(classes[number].name, classes[number].color, part)
        for shape, number in zip(level0, label.tolist(), strict=True)
        for part in shapely.get_parts(shape)
        if part.geom_type == "Polygon" and part.area > 0
    ]
    files = SlideFiles(folder)
    write_class_areas(files.region_outlines, areas, info, maps.facts["model"]["sha256"])
    draw_areas(files.region_picture, areas, classes, store)
    write_map(files.region_map, maps)
    record = {
        "status": OK,
        "reason": "",
        **maps.facts,
        "classes": measure_areas(areas, maps, info.mpp),
    }
    write_json(files.regions, record)
    return record


def _to_level0(polygon: shapely.Polygon, maps: SlideMap, info: SlideInfo) -> shapely.Polygon:
    """Convert a polygon from cells to level-0 pixels, rounded to 0.1, and clip it to the scanner's
    bounds.
    """
    shape = shapely.transform(
        polygon, lambda xy: np.round(work_to_level0(xy, info.mpp, maps.cell_um), 1)
    )
    if not shapely.box(*info.scanned_box).contains(shape):
        shape = shapely.intersection(shape, shapely.box(*info.scanned_box))
    return shape if shape.is_valid else repair_areas(shape)


def measure_areas(
    areas: Sequence[ClassArea], maps: SlideMap, mpp: tuple[float, float]
) -> list[dict[str, Any]]:
    """Name, colour, side of the border, number of areas and total area in mm2 of every class."""
    described = []
    for region, is_inside in zip(maps.classes, maps.is_inside, strict=True):
        areas_px = [area.shape.area for area in areas if area.class_name == region.name]
        area_mm2 = round(sum(areas_px) * mpp[0] * mpp[1] / 1e6, 6)
        named = {"name": region.name, "color": list(region.color), "is_inside": is_inside}
        described.append({**named, "n_areas": len(areas_px), "area_mm2": area_mm2})
    return described


def write_map(path: Path, maps: SlideMap) -> None:
    """Write ``regions.zarr``: an OME-Zarr image (class, y, x) uint8 of probabilities times 255, 0
    outside tissue.
    """
    channels = [(region.name, region.color, index > 0) for index, region in enumerate(maps.classes)]
    image = image_metadata("regions", maps.cell_um, (1,), channels)
    with complete_file(path) as folder:
        write_group(folder, {"ome": image, "muse": maps.facts})
        write_planes(folder / "0", maps.prob, min(CHUNK_CELLS, *maps.prob.shape[1:]))


def draw_areas(
    path: Path, areas: Sequence[ClassArea], classes: Sequence[NucleusClass], store: Store
) -> None:
    """Draw the slide, at most 1,500 px wide and high, with areas tinted in the colours of their
    classes.
    """
    # The smallest factor by which the picture fits, rounded up to a multiple of a level's factor.
    needed = max(1, -(-max(store.size_px) // PICTURE_PX))
    level = max(factor for factor in PYRAMID if factor <= needed)
    small = store.at(store.mpp * (-(-needed // level) * level))
    width, height = small.size_px
    bands = strips(height, 64)  # a large slide is not read all at once
    picture = np.concatenate(
        [small.read((0, rows.start), (width, rows.stop - rows.start)) for rows in bands]
    )
    tint = picture.copy()
    scale = np.array(store.slide_mpp) / small.mpp
    rings = [[_to_pixels(ring, scale) for ring in shapely.get_rings(area.shape)] for area in areas]
    for area, outline in zip(areas, rings, strict=True):
        cv2.fillPoly(tint, outline, area.color, cv2.LINE_AA, shift=_SHIFT)
    picture = cv2.addWeighted(picture, 0.65, tint, 0.35, 0)
    for area, outline in zip(areas, rings, strict=True):
        cv2.polylines(
            picture,
            outline,
            True,
            area.color,
            1 + max(picture.shape) // 1000,
            cv2.LINE_AA,
            shift=_SHIFT,
        )
    with complete_file(path) as partial:
        write_png(partial, np.asarray(_add_legend(picture, classes)))


_SHIFT = 4  # bits for fractions of a pixel


def _to_pixels(ring: shapely.LinearRing, scale: ndarray) -> ndarray:
    # OpenCV counts from the middle of the first pixel, this package from its corner.
    return np.round((shapely.get_coordinates(ring) * scale - 0.5) * 2**_SHIFT).astype(np.int32)


def _add_legend(picture: ndarray, classes: Sequence[NucleusClass]) -> Image.Image:
    """The picture with the colours and names of the classes below it."""
    size, margin = 18, 8
    font, y = ImageFont.load_default(size), picture.shape[0] + margin
    left = np.cumsum(
        [margin, *(size + 26 + round(font.getlength(region.name)) for region in classes)]
    ).tolist()
    canvas = Image.new("RGB", (max(picture.shape[1], left[-1]), y + size + margin), "white")
    canvas.paste(Image.fromarray(picture))
    draw = ImageDraw.Draw(canvas)
    for x, region in zip(left, classes, strict=False):
        draw.rectangle((x, y, x + size, y + size), fill=region.color)
        draw.text((x + size + 6, y - 2), region.name, "black", font)
    return canvas
