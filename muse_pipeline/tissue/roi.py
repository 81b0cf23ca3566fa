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
from muse_pipeline.qupath_words import is_called, properties_of, read_class_name, read_object_type
from muse_pipeline.types import SlideInfo

_AREAL = ("Polygon", "MultiPolygon")
_NUCLEI = ("detection", "cell")  # of an export of all objects
_IGNORE = "Ignore"  # QuPath's own class is "Ignore*"


def read_roi(path: Path | str, info: SlideInfo) -> BaseGeometry:
    """Read the areas of a GeoJSON file in QuPath's frame.

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


def read_annotations(path: Path | str, info: SlideInfo) -> list[tuple[str, str | None, BaseGeometry]]:
    """The areas of a region of interest one by one, each without what is of the class "Ignore".

    Returns:
        Of each that touches the slide its name, its class or None, and its polygon or multipolygon on the slide in
        absolute level-0 px. An area without a name has that of its class, or its number in the file: "ROI 2".

    Raises:
        GeoJSONError: see ``read_areas``.
    """
    areas = [(shape, properties) for shape, ignored, properties in _read_shapes(path) if not ignored]
    of_slide = translate(read_areas(path), *qupath_offset_px(info.bounds)) & shapely.box(0, 0, *info.size_px)
    annotations = []
    for number, (shape, properties) in enumerate(areas, 1):
        class_name = read_class_name(properties.get("classification"))
        inside = translate(shape, *qupath_offset_px(info.bounds)) & of_slide
        if inside.area:
            annotations.append((str(properties.get("name") or class_name or f"ROI {number}"), class_name, inside))
    return annotations


def read_areas(path: Path | str) -> BaseGeometry:
    """The union of all polygons of a GeoJSON file, plain or in gzip, in px as the file counts them.

    Detections and cells are no areas, and what is of the class "Ignore" is taken out of the others.

    Raises:
        GeoJSONError: the file is not GeoJSON, or holds no valid area.
    """
    areas = [(shape, ignored) for shape, ignored, _ in _read_shapes(path)]
    if all(ignored for _, ignored in areas):
        raise GeoJSONError(
            f"{path}: holds no polygon but of nuclei or of '{_IGNORE}'; draw the region of interest as a closed area"
        )
    for number, (shape, _) in enumerate(areas, 1):
        if not shape.is_valid:
            why = shapely.is_valid_reason(shape)
            raise GeoJSONError(f"{path}: polygon {number} is not valid ({why}); draw it again without crossing lines")
    within, without = (
        shapely.union_all([shape for shape, ignored in areas if ignored is kind]) for kind in (False, True)
    )
    roi = within.difference(without)
    if not roi.area:
        raise GeoJSONError(f"{path}: nothing is left of its areas without those of the class '{_IGNORE}'; draw more")
    return roi


def _read_shapes(path: Path | str) -> list[tuple[BaseGeometry, bool, dict[str, Any]]]:
    """Every polygon of a file that is no nucleus, whether it is to be ignored, and the properties of its feature."""
    values = _read_json(path)
    try:
        shapes = [
            (shapely.from_geojson(json.dumps(geometry)), is_called(_IGNORE, properties), properties)
            for geometry, properties in _parts(values, {})
            if read_object_type(properties) not in _NUCLEI
        ]
    except (shapely.errors.GEOSException, TypeError, KeyError, AttributeError) as error:
        raise GeoJSONError(
            f"{path}: is not GeoJSON that can be read ({error}); export the ROI from QuPath again"
        ) from error
    return [entry for entry in shapes if entry[0].geom_type in _AREAL and not entry[0].is_empty]


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


def _parts(values: Any, properties: dict[str, Any]) -> list[tuple[dict, dict[str, Any]]]:
    """The geometries of whatever GeoJSON has, or a bare list of it, with the properties of the feature of each."""
    if isinstance(values, list):
        return [part for value in values for part in _parts(value, properties)]
    if not isinstance(values, dict):
        raise TypeError(f"found {values!r} where a feature is expected")
    for inner in ("features", "geometries", "geometry"):
        if values.get(inner) is not None:
            return _parts(values[inner], properties_of(values) or properties)
    return [(values, properties)] if "coordinates" in values else []
