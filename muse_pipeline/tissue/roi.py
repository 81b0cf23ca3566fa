"""A region of interest drawn in QuPath: annotations in a GeoJSON file."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import shapely
from shapely.affinity import translate
from shapely.geometry.base import BaseGeometry

from muse_pipeline.coords import qupath_offset_px
from muse_pipeline.errors import GeoJSONError
from muse_pipeline.files import open_unzipped, sha256_of
from muse_pipeline.types import SlideInfo

_AREAL = ("Polygon", "MultiPolygon")


def read_roi(path: Path | str, info: SlideInfo) -> BaseGeometry:
    """Read the union of all polygons of a GeoJSON file in QuPath's frame.

    Returns:
        Polygon or multipolygon in absolute level-0 px.

    Raises:
        GeoJSONError: see ``read_areas``; or it lies outside the slide.
    """
    roi = translate(read_areas(path), *qupath_offset_px(info.bounds))
    if not roi.intersects(shapely.box(0, 0, *info.size_px)):
        raise GeoJSONError(
            f"{path}: the region of interest lies outside slide '{info.slide_id}'; is it another slide's?"
        )
    return roi


def describe_roi(path: Path, roi: BaseGeometry, info: SlideInfo) -> dict[str, Any]:
    """What results say of the region that they are restricted to: its file's name and SHA-256, its mm2 on the slide."""
    on_slide = roi.intersection(shapely.box(0, 0, *info.size_px))
    area_mm2 = round(on_slide.area * info.mpp[0] * info.mpp[1] / 1e6, 6)
    return {"name": path.name, "sha256": sha256_of(path), "area_mm2": area_mm2}


def read_areas(path: Path | str) -> BaseGeometry:
    """The union of all polygons of a GeoJSON file, plain or in gzip, in px as the file counts them.

    Raises:
        GeoJSONError: the file is not GeoJSON, or holds no valid area.
    """
    values = _read_json(path)
    try:
        shapes = [shapely.from_geojson(json.dumps(geometry)) for geometry in _geometries(values)]
    except (shapely.errors.GEOSException, TypeError, KeyError, AttributeError) as error:
        raise GeoJSONError(
            f"{path}: is not GeoJSON that can be read ({error}); export the ROI from QuPath again"
        ) from error
    shapes = [shape for shape in shapes if shape.geom_type in _AREAL and not shape.is_empty]
    if not shapes:
        raise GeoJSONError(f"{path}: holds no polygon; draw the region of interest as a closed area")
    for number, shape in enumerate(shapes, 1):
        if not shape.is_valid:
            why = shapely.is_valid_reason(shape)
            raise GeoJSONError(f"{path}: polygon {number} is not valid ({why}); draw it again without crossing lines")
    return shapely.union_all(shapes)


def _read_json(path: Path | str) -> Any:
    try:
        with open_unzipped(Path(path)) as file:
            return json.loads(file.read().decode("utf-8-sig"))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise GeoJSONError(f"{path}: the gzip compression is damaged ({error}); export the ROI again") from error
    except OSError as error:
        raise GeoJSONError(f"{path}: cannot be read ({error.strerror}); correct the ROI's path") from error
    except (ValueError, RecursionError) as error:
        raise GeoJSONError(f"{path}: is not JSON ({error}); export the ROI from QuPath as GeoJSON") from error


def _geometries(values: Any) -> list[dict]:
    """The geometries of a FeatureCollection, a bare list, a Feature, a collection of geometries or a geometry."""
    if isinstance(values, list):
        return [geometry for value in values for geometry in _geometries(value)]
    if not isinstance(values, dict):
        raise TypeError(f"found {values!r} where a feature is expected")
    for inner in ("features", "geometries", "geometry"):
        if values.get(inner) is not None:
            return _geometries(values[inner])
    return [values] if "coordinates" in values else []
