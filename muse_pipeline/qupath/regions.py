"""Areas drawn as annotations: completely labelled areas, regions of interest, and tissue areas with
a class.
"""

from __future__ import annotations

import json
import uuid
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy import ndarray
from shapely.affinity import translate
from shapely.geometry.base import BaseGeometry

from muse_pipeline.core.coords import qupath_offset_px
from muse_pipeline.core.errors import GeoJSONError, LeftOutWarning
from muse_pipeline.core.files import sha256_of, write_text
from muse_pipeline.core.types import SlideInfo
from muse_pipeline.nuclei.rays import repair_areas
from muse_pipeline.qupath import parse
from muse_pipeline.qupath.parse import iterate_features
from muse_pipeline.qupath.read import GeoJSONObjects, to_feature
from muse_pipeline.qupath.write import encode, open_features, split_name
from muse_pipeline.tissue.mask import RoiArea
from muse_pipeline.tissue.outline import TISSUE_RGB
from muse_pipeline.tissue.tma import Core


def are_called(drawn: GeoJSONObjects, words: Collection[str]) -> ndarray:
    """(N,) bool: True for objects whose class, or annotations whose name, is one of ``words``."""
    named = np.where(drawn.object_type == "annotation", drawn.name, None)
    return np.array(
        [parse.is_called(words, *pair) for pair in zip(drawn.class_name, named, strict=True)], bool
    )


def union_of_areas(geometry: ndarray) -> BaseGeometry | None:
    """The polygons within geometries (N,), made valid, as one polygon or multipolygon; None if
    there are none.
    """
    # a collection may contain multipolygons
    parts = shapely.get_parts(shapely.get_parts(repair_areas(geometry)))
    parts = parts[shapely.area(parts) > 0]
    return shapely.union_all(parts) if len(parts) else None


def remove_spikes(shape: BaseGeometry) -> BaseGeometry:
    """Remove lines that lead out of an area and back; the shape is unchanged if a ring bounds more
    than one area.
    """
    if shape.is_valid:
        return shape
    rings = repair_areas(shapely.polygons(shapely.get_rings(shapely.get_parts(shape))))
    if (shapely.get_num_geometries(rings) > 1).any():
        return shape
    return union_of_areas(np.array([shape])) or shape


IGNORE = "Ignore"  # QuPath's own class is "Ignore*"
ANNOTATION, CORE = "annotation", "tmaCore"
_MISSING_CORE = "missing TMA core"


def take_out_ignored(shapes: ndarray, is_ignored: ndarray) -> ndarray:
    """Remove shapes (N,) of the class "Ignore", and subtract their areas from the remaining
    shapes.
    """
    kept = shapes[~is_ignored]
    if is_ignored.any():
        return shapely.difference(kept, shapely.union_all(shapes[is_ignored]))
    return kept


def read_roi(path: Path | str, info: SlideInfo) -> BaseGeometry:
    """Read the region of interest in a GeoJSON file in QuPath's frame, as polygons in absolute
    level-0 px.
    """
    roi = translate(read_areas(path, info), *qupath_offset_px(info.bounds))
    if not roi.intersects(shapely.box(0, 0, *info.size_px)):
        raise GeoJSONError(
            f"{path}: the region of interest is outside slide '{info.slide_id}'; give annotations"
            " of this slide, in its level-0 pixels, not in um"
        )
    return roi


def describe_roi(path: Path, roi: BaseGeometry, info: SlideInfo) -> dict[str, Any]:
    """Describe the region of interest for results: name and SHA-256 of its file, and its area on
    the slide in mm2.
    """
    on_slide = roi.intersection(shapely.box(0, 0, *info.size_px))
    area_mm2 = round(on_slide.area * info.mpp[0] * info.mpp[1] / 1e6, 6)
    return {"name": path.name, "sha256": sha256_of(path), "area_mm2": area_mm2}


def read_annotations(path: Path | str, roi: BaseGeometry, info: SlideInfo) -> list[RoiArea]:
    """The areas of the region of interest, including TMA cores, clipped to the slide, in absolute
    level-0 px.

    Areas outside the slide or ``roi``, which is from ``read_roi``, are left out. An area without a
    name is named after its class. If it has no class either, it is numbered, as in "ROI 2", among
    the areas of the file that do not have the class "Ignore".
    """
    areas, _ = _read_shapes(path, (ANNOTATION, CORE))
    on_slide = roi & shapely.box(0, 0, *info.size_px)
    annotations = []
    for number, area in enumerate((area for area in areas if not area.is_ignored), 1):
        shape = translate(area.shape, *qupath_offset_px(info.bounds)) & on_slide
        if shape.area:
            annotations.append(
                replace(area, shape=shape, name=area.name or area.class_name or f"ROI {number}")
            )
    return annotations


def read_areas(path: Path | str, info: SlideInfo | None = None) -> BaseGeometry:
    """The union of all annotated areas and TMA cores of a GeoJSON file, in the file's pixels.

    Areas of the class "Ignore" are subtracted. Missing cores, other objects, lines, points, empty
    ROIs and annotations on planes above 0 of a stack are left out, the last four with a warning.
    With ``info``, the function also warns of areas outside the slide if some are inside.
    """
    areas, others = _read_shapes(path, (ANNOTATION, CORE))
    if all(area.is_ignored for area in areas):
        others[f"annotation of class '{IGNORE}'"] = len(areas)
        raise GeoJSONError(
            f"{path}: holds no polygon for a region of interest (found:"
            f" {parse.list_counts(others)}); draw it in QuPath as an annotation with a closed"
            " outline"
        )
    for number, area in enumerate(areas, 1):
        if not area.shape.is_valid:
            why = shapely.is_valid_reason(area.shape)
            raise GeoJSONError(
                f"{path}: polygon {number} is not valid ({why}); draw it again without crossing"
                " lines"
            )
    roi = shapely.union_all(take_out_ignored(*_columns(areas)))
    if not roi.area:
        raise GeoJSONError(
            f"{path}: nothing is left of its areas after subtraction of the class '{IGNORE}'; draw"
            " more"
        )
    on_slide = [info is None or _is_on(area, info) for area in areas if not area.is_ignored]
    if 0 < (n_outside := on_slide.count(False)) < len(on_slide):
        others[parse.OUTSIDE] = n_outside
    _warn_of_left_out(path, others)
    return roi


def _is_on(area: RoiArea, info: SlideInfo) -> bool:
    """True if a part of an area, in its file's pixels, is on the slide."""
    return (
        translate(area.shape, *qupath_offset_px(info.bounds)) & shapely.box(0, 0, *info.size_px)
    ).area > 0


def _columns(areas: Sequence[RoiArea]) -> tuple[ndarray, ndarray]:
    """The shapes (N,), and (N,) bool, True for ignored areas."""
    return np.array([area.shape for area in areas], object), np.array(
        [area.is_ignored for area in areas], bool
    )


def _read_shapes(path: Path | str, kinds: Collection[str]) -> tuple[list[RoiArea], Counter[str]]:
    """The areas of a file, objects of the types ``kinds``, in the file's pixels; and counts of
    others by reason.
    """
    features = list(map(to_feature, iterate_features(path)))
    try:
        types = list(map(parse.read_object_type, features))
        shapes = np.array(
            [_build_area(*pair, kinds) for pair in zip(features, types, strict=True)], object
        )
    except (shapely.errors.GEOSException, TypeError, KeyError, AttributeError) as error:
        raise GeoJSONError(
            f"{path}: is not GeoJSON that can be read ({error}); export the areas from QuPath again"
        ) from error
    others = [kind for kind in parse.OBJECT_TYPES if kind not in kinds]
    reasons = parse.why_left_out(
        shapes, [feature.get("geometry") for feature in features], types, others
    )
    reasons[(reasons == "") & (shapely.get_dimensions(shapes) == 0)] = "point"
    missing = np.array(
        [parse.properties_of(feature).get("isMissing") is True for feature in features], bool
    )
    reasons[(reasons == "") & missing] = _MISSING_CORE
    areas = [
        _describe_area(shapes[index], features[index]) for index in np.flatnonzero(reasons == "")
    ]
    return areas, Counter(filter(None, reasons.tolist()))


def _describe_area(shape: BaseGeometry, feature: dict[str, Any]) -> RoiArea:
    properties = parse.properties_of(feature)
    classification = properties.get("classification")
    name = properties.get("name")
    class_name = parse.read_class_name(classification)
    is_ignored = parse.is_called((IGNORE,), class_name, name)
    color = classification.get("color") if isinstance(classification, dict) else None
    is_rgb = (
        isinstance(color, list) and len(color) == 3 and all(isinstance(part, int) for part in color)
    )
    area = RoiArea(name and str(name), class_name, shape, is_ignored)
    return replace(area, color=tuple(color)) if is_rgb else area


def _build_area(
    feature: dict[str, Any], object_type: str, kinds: Collection[str]
) -> BaseGeometry | None:
    """The shape of an area; None if it has none. Shapes of other objects are not parsed."""
    if object_type not in kinds or not feature.get("geometry"):
        return None
    shape = shapely.from_geojson(json.dumps(feature["geometry"]))
    if shape.geom_type == "GeometryCollection":
        return union_of_areas(np.array([shape]))
    return remove_spikes(shape)


def _warn_of_left_out(path: Path | str, others: Counter[str]) -> None:
    """Warn of objects that a user may have meant as areas: all except other object types and
    missing cores.
    """
    if meant := {
        noun: n
        for noun, n in others.items()
        if noun not in {*parse.TYPE_NAMES.values(), _MISSING_CORE}
    }:
        warnings.warn(f"{path}: left out {parse.list_counts(meant)}", LeftOutWarning, stacklevel=3)


_NAMESPACE = uuid.UUID("5d1b9c1e-6f3c-5b0a-9a53-0f6d1c3f2b7a")


def write_outline(path: Path | str, outline: BaseGeometry, info: SlideInfo) -> None:
    """Write ``tissue.geojson``: one locked annotation, with positions from the scanner's bounds as
    in QuPath.
    """
    if info.bounds is not None:
        x, y = qupath_offset_px(info.bounds)
        # Rounded again, since subtraction leaves rounding errors beyond the first decimal.
        outline = shapely.set_precision(translate(outline, -x, -y), 0.1)
    properties = {
        "objectType": ANNOTATION,
        "name": "Tissue",
        "color": list(TISSUE_RGB),
        "isLocked": True,
    }
    _write(
        path, [] if outline.is_empty else [_feature(_make_id(info, "tissue"), outline, properties)]
    )


def write_cores(path: Path | str, cores: Iterable[Core], radius_um: float, info: SlideInfo) -> None:
    """Write all cores of a tissue microarray as QuPath's TMA cores, with positions from the
    scanner's bounds.
    """
    angle = np.arange(64) * (np.pi / 32)
    circle = np.stack([np.cos(angle), np.sin(angle)], 1) * radius_um
    features = []
    for core in cores:
        ring = (circle + core.centre_um) / np.asarray(info.mpp) - qupath_offset_px(info.bounds)
        properties = {"objectType": CORE, "name": core.name, "isMissing": core.is_missing}
        shape = shapely.Polygon(np.round(ring, 1))
        features.append(_feature(_make_id(info, f"core {core.name}"), shape, properties))
    _write(path, features)


def _make_id(info: SlideInfo, what: str) -> uuid.UUID:
    return uuid.uuid5(_NAMESPACE, f"{info.slide_id}|{info.fingerprint}|{what}")


def _feature(own_id: uuid.UUID, shape: BaseGeometry, properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "Feature",
        "id": str(own_id),
        "geometry": parse.shape_to_geojson(shape),
        "properties": properties,
    }


def _write(path: Path | str, features: list[dict[str, Any]]) -> None:
    collection = {"type": "FeatureCollection", "features": features}
    write_text(path, json.dumps(collection, sort_keys=True) + "\n")


def read_cores(path: Path, info: SlideInfo) -> tuple[list[RoiArea], list[str]]:
    """The cores in a file from ``write_cores``, in absolute level-0 px, and the names of missing
    cores.
    """
    features = list(iterate_features(path))
    missing = [core["properties"]["name"] for core in features if core["properties"]["isMissing"]]
    if len(missing) == len(features):
        return [], missing
    return read_annotations(path, shapely.box(0, 0, *info.size_px), info), missing


@dataclass(frozen=True, eq=False)
class ClassArea:
    """An area of tissue with a class."""

    class_name: str  # class of the area
    color: tuple[int, int, int]  # (r, g, b), 0 to 255
    shape: BaseGeometry  # valid polygon in absolute level-0 px


def write_class_areas(
    path: Path | str, areas: Sequence[ClassArea], info: SlideInfo, made_by: str
) -> None:
    """Write areas as locked annotations, one per line, with positions to 0.1 px from the scanner's
    bounds.

    Equal areas with equal ``made_by``, such as the checksum of a model, have equal ids.
    """
    x, y = qupath_offset_px(info.bounds)
    namespace = _make_id(info, made_by)
    with open_features(Path(path)) as write:
        for area in areas:
            shape = shapely.transform(area.shape, lambda xy: np.round(xy - (x, y), 1))
            classification = {"name": area.class_name, "color": list(area.color)}
            properties = {
                "objectType": ANNOTATION,
                "classification": classification,
                "isLocked": True,
            }
            feature = _feature(uuid.uuid5(namespace, shape.wkt), shape, properties)
            text = json.dumps(feature, separators=(",", ":"), ensure_ascii=False).encode()
            write(encode(text, split_name(Path(path))[1]))


def read_class_areas(path: Path, info: SlideInfo, may_lack: bool = False) -> list[ClassArea]:
    """The annotated areas of a file that have a class, in absolute level-0 px and on the slide.

    Areas of the class "Ignore" are subtracted. "Region*" and "Tissue" are not classes of tissue.
    Areas without a class or outside the slide are left out with a warning, as are the objects that
    ``read_areas`` warns of. With ``may_lack``, the list is empty if there is no file or no area.
    """
    if may_lack and not path.exists():
        return []
    areas, others = _read_shapes(path, (ANNOTATION,))
    areas = [
        replace(area, shape=shape)
        for area in areas
        if (shape := union_of_areas(np.array([area.shape])))
    ]
    slide, (x, y) = shapely.box(0, 0, *info.size_px), qupath_offset_px(info.bounds)
    of_class = []
    drawn = [area for area in areas if not area.is_ignored]
    for area, kept in zip(drawn, take_out_ignored(*_columns(areas)), strict=True):
        shape = union_of_areas(np.array([translate(kept, x, y) & slide]))
        if area.class_name is None:
            others["area without a class"] += 1
        elif shape is None and not _is_on(area, info):
            others[parse.OUTSIDE] += 1
        elif shape is not None and not parse.is_called(
            (parse.REGION, *parse.IGNORED), area.class_name
        ):
            of_class.append(ClassArea(area.class_name, area.color, shape))
    _warn_of_left_out(path, others)
    if not of_class and not may_lack:
        raise GeoJSONError(
            f"{path}: has no area with a class on slide '{info.slide_id}'; draw areas and set their"
            " class"
        )
    return of_class
