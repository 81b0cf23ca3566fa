"""Rules of QuPath's parser for a single feature, restated from its source (PathIO, GsonTools, QuPathTypeAdapters).

The source was read at v0.4.4, v0.5.1, v0.6.0 and v0.7.0, and the rules agree with the importers on some 140 small
files. "Has" means that the key exists: null is a value, which most keys do not accept.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
import shapely
from shapely.geometry.base import BaseGeometry

from muse_pipeline.qupath.objects import LEGACY_IDS, TYPE_KEYS, properties_of, read_object_type, type_of_word
from muse_pipeline.qupath.parse import GEOMETRIES

VERSIONS = ("0.4", "0.5", "0.6", "0.7")
BEFORE_05, BEFORE_06, SINCE_06 = VERSIONS[:1], VERSIONS[:2], VERSIONS[2:]
_UUID = re.compile(r"(?=.{1,36}$)[0-9a-fA-F]+(-[0-9a-fA-F]+){4}")  # Java pads groups with zeros
_JAVA_DOUBLE = re.compile(r"\s*[+-]?(NaN|Infinity|(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?[fFdD]?)\s*")
MOST_LEVELS = 255  # limit of nesting in Gson since 2.12
_DEPTH = {"Point": 0, "MultiPoint": 1, "LineString": 1, "MultiLineString": 2, "Polygon": 2, "MultiPolygon": 3}


@dataclass(frozen=True)
class Fault:
    """A fault of a file because of which QuPath would lose data.

    Attributes:
        reason: one clause, the same for all features that share it.
        rejected_by: versions that reject the whole file because of it; empty if only single objects are damaged.
    """

    reason: str
    rejected_by: tuple[str, ...] = ()


def judge_feature(feature: Any) -> Iterator[Fault]:
    """Yield all faults of a feature; its positions and the uniqueness of its id are not checked."""
    if feature is None:
        yield Fault("a feature is null, which a comma before ']' makes as well; remove it", VERSIONS)
        return
    if not isinstance(feature, dict):
        yield Fault("a feature is not an object", VERSIONS)
        return
    yield from _judge_id(feature)
    yield from _judge_geometry_keys(feature)
    if "properties" in feature and not isinstance(feature["properties"], dict):
        yield Fault("properties are not an object", VERSIONS)
        return
    properties = properties_of(feature)
    yield from _judge_object_type(feature, properties)
    yield from _judge_name_and_color(properties)
    if properties.get("classification") is not None:
        yield from _judge_classification(properties["classification"])
    if properties.get("measurements") is not None:
        yield from _judge_measurements(properties["measurements"])


def is_uuid(value: Any) -> bool:
    """True if QuPath keeps ``value`` as an id."""
    return isinstance(value, str) and _UUID.fullmatch(value) is not None


def count_levels(value: Any) -> int:
    """Depth of a parsed document. Coordinates count as one level, because deeper ones are an error in any case."""
    if isinstance(value, dict):
        value = [None if key == "coordinates" else each for key, each in value.items()]
    return 1 + max(map(count_levels, value), default=0) if isinstance(value, list) else 0


def geometries_of(feature: Any) -> list[dict[str, Any]]:
    """The geometries of a feature whose positions are checked."""
    if not isinstance(feature, dict):
        return []
    found = [feature.get(key) for key in ("geometry", "nucleusGeometry")]
    return [one for one in found if isinstance(one, dict) and _is_known(one)]


def _judge_id(feature: dict[str, Any]) -> Iterator[Fault]:
    if "id" not in feature:
        return
    if not _is_primitive(feature["id"]):
        yield Fault("id is null or not a text", VERSIONS)
    elif not is_uuid(feature["id"]) and not _has_legacy_id(feature):
        yield Fault("loses its id, which is not a UUID")


def _has_legacy_id(feature: dict[str, Any]) -> bool:
    return isinstance(feature.get("id"), str) and feature["id"] in LEGACY_IDS


def _judge_geometry_keys(feature: dict[str, Any]) -> Iterator[Fault]:
    for key in ("geometry", *(["nucleusGeometry"] if "nucleusGeometry" in feature else [])):
        geometry = feature.get(key)
        if not isinstance(geometry, dict):
            yield Fault(f"{key} is {'null' if key in feature else 'missing'}", VERSIONS)
        elif not geometry:
            if read_object_type(feature) == "tmaCore":
                yield Fault("a TMA core has no geometry", VERSIONS)
            elif read_object_type(feature) != "root":
                yield Fault("has no geometry")
        elif not _is_known(geometry):
            yield Fault(f"the geometry type '{geometry.get('type')}' is unknown", VERSIONS)
        elif "plane" in geometry and not _is_plane(geometry["plane"]):
            yield Fault("plane is not an object of whole numbers c, z and t", VERSIONS)
        elif "isEllipse" in geometry and not _is_primitive(geometry["isEllipse"]):
            yield Fault("isEllipse is neither true nor false", VERSIONS)


def _is_plane(value: Any) -> bool:
    return isinstance(value, dict) and {"c", "z", "t"} >= value.keys() and all(map(_is_int, value.values()))


def _judge_object_type(feature: dict[str, Any], properties: dict[str, Any]) -> Iterator[Fault]:
    key = next((key for key in TYPE_KEYS if key in properties), None)
    if key is not None and not _is_primitive(properties[key]):
        yield Fault(f"{key} is null or not a text", VERSIONS)
        return
    became = read_object_type(feature)
    state = "stands outside properties" if "objectType" in feature else "is missing"
    if key is None and not _has_legacy_id(feature):
        yield Fault(f"becomes an annotation, as objectType {state}")
    elif key == "type":
        what = f"{'an' if became == 'annotation' else 'a'} {became}"
        word = properties[key]
        yield Fault(f"becomes {what}, as objectType {state} and properties.type '{word}' is read instead")
    elif key is not None and type_of_word(properties[key]) is None:
        yield Fault(f"becomes an annotation, as objectType '{properties[key]}' is unknown")
    elif became in {"tile", "root"}:
        yield Fault(f"is a {became}, not a nucleus: objectType must be detection, cell or annotation")


def _judge_name_and_color(properties: dict[str, Any]) -> Iterator[Fault]:
    if "name" in properties and not _is_primitive(properties["name"]):
        yield Fault("name is null or not a text", VERSIONS)
    color = properties.get("color")
    if _is_primitive(color) and not _is_int(color):
        yield Fault("color is neither [r, g, b] nor a number", VERSIONS)
    elif isinstance(color, list) and len(color) == 3 and not all(map(_is_int, color)):
        yield Fault("color has a part that is not a number", VERSIONS)


def _judge_classification(classification: Any) -> Iterator[Fault]:
    if isinstance(classification, str):
        yield from _judge_class_name(classification)
        return
    if not isinstance(classification, dict):
        yield Fault("classification is neither a string nor an object", VERSIONS)
        return
    if not classification:
        return  # the feature has no class
    if "colorRGB" in classification or "parentClass" in classification:  # as QuPath before 0.4 wrote it
        if classification.get("colorRGB") is not None and not _is_int(classification["colorRGB"]):
            yield Fault("classification's colorRGB is not a number", VERSIONS)
        return
    if "color" not in classification:
        yield Fault("classification has no color", VERSIONS)
    name, names = classification.get("name"), classification.get("names")
    if not {"name", "names"} & classification.keys():
        yield Fault("classification has no name", VERSIONS)
    elif not (name is None or _is_primitive(name)) or not (names is None or isinstance(names, list)):
        yield Fault("classification's name is not a text, or names are not a list of texts", VERSIONS)
    elif name is not None:
        yield from _judge_class_name(str(name))
    elif not names:
        yield Fault("loses its classification, whose name is null")
    elif not all(map(_is_primitive, names)):
        yield _BLANK_NAME
    else:
        yield from _judge_class_names(list(map(str, names)))
    yield from _judge_class_color(classification.get("color"))


_BLANK_NAME = Fault("classification has a blank name", VERSIONS)


def _judge_class_name(name: str) -> Iterator[Fault]:
    """Yield faults of a class name, whose parts are separated by colons; Java drops empty parts at its end."""
    if name and not name.strip(":"):
        yield Fault("loses its classification, whose name is only ':'")
    else:
        yield from _judge_class_names(name.rstrip(":").split(":"))


def _judge_class_names(names: list[str]) -> Iterator[Fault]:
    stripped = [name.strip() for name in names]
    if not all(stripped):
        yield _BLANK_NAME
    if any("\n" in name or "\r" in name for name in stripped):
        yield Fault("classification's name has a line break", VERSIONS)
    if any(":" in name for name in stripped):
        yield Fault("an entry of classification's names has a colon", VERSIONS)


def _judge_class_color(color: Any) -> Iterator[Fault]:
    if color is None:
        return
    if not isinstance(color, list):
        yield Fault("classification's color is not a list", VERSIONS)
    elif not all(map(_is_int, color)) or len(color) not in {0, 1, 3, 4}:
        yield Fault("classification's color is not [r, g, b]", VERSIONS)
    elif not all(isinstance(part, int) and 0 <= part <= 255 for part in color) and len(color) > 1:
        yield Fault("classification's color is changed, as it is not [r, g, b] of whole numbers from 0 to 255")


def _judge_measurements(measurements: Any) -> Iterator[Fault]:
    if isinstance(measurements, list):  # as before 0.4, still read
        for entry in measurements:
            if not isinstance(entry, dict) or not _is_primitive(entry.get("name")):
                yield Fault("a measurement in a list is not an object with name and value", VERSIONS)
            elif to_double(entry.get("value")) is None:
                yield Fault("a measurement is not a number", VERSIONS)
    elif isinstance(measurements, dict):
        yield from filter(None, map(_judge_measurement, measurements.values()))
    else:
        yield Fault("loses its measurements, which are neither an object nor a list")


def _judge_measurement(value: Any) -> Fault | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return None if math.isfinite(value) else Fault("a measurement is NaN or infinite", BEFORE_05)
    if not isinstance(value, str):
        return Fault("a measurement is not a number, and later versions leave it out", BEFORE_05)
    if to_double(value) is None:
        return Fault("a measurement is not a number", VERSIONS)
    return Fault("a measurement is NaN, infinite or a number in quotes", BEFORE_05)


def judge_geometry(geometry: dict[str, Any]) -> Fault | None:
    """The fault, if any, that is visible without building the geometry, which has one of the known types."""
    match geometry:
        case {"type": "GeometryCollection"}:
            return Fault("a GeometryCollection", SINCE_06)
        case {"type": "MultiPolygon", "coordinates": [[[_, *_], *_]]}:  # one part, which has positions
            return Fault("a MultiPolygon of one part, which must be a Polygon", BEFORE_06)
    return None


def has_plain_rings(geometry: dict[str, Any]) -> bool:
    """True if all rings are closed and have at least four positions, so that GEOS builds the geometry as JTS does."""
    coordinates = geometry.get("coordinates")
    polygons = {"Polygon": [coordinates], "MultiPolygon": coordinates}.get(geometry["type"])
    try:
        return all(len(ring) > 3 and ring[0] == ring[-1] for polygon in polygons for ring in polygon)
    except (TypeError, KeyError):
        return False


def build_as_jts(geometry: dict[str, Any]) -> BaseGeometry:
    """Build a geometry of known type as JTS does, which accepts numbers in quotes and rings of three positions.

    Raises:
        ValueError: JTS rejects it; the message is the reason.
    """
    kind = geometry["type"]
    if kind == "GeometryCollection":
        parts = geometry.get("geometries")
        if not isinstance(parts, list) or not all(isinstance(part, dict) and _is_known(part) for part in parts):
            raise ValueError("the geometry cannot be read: geometries are missing or of unknown type")
        return shapely.GeometryCollection(list(map(build_as_jts, parts)))
    positions = _read_positions(geometry.get("coordinates"), _DEPTH[kind])
    if kind in {"Polygon", "MultiPolygon"}:
        polygons = [_read_rings(rings) for rings in ([positions] if kind == "Polygon" else positions)]
        kind, positions = "MultiPolygon", [rings for rings in polygons if rings]
    elif any(len(line) == 1 for line in {"LineString": [positions], "MultiLineString": positions}.get(kind, ())):
        raise ValueError("a line has one position")
    return shapely.from_geojson(orjson.dumps({"type": kind, "coordinates": positions}), on_invalid="ignore")


def _read_positions(values: Any, depth: int) -> list[Any]:
    if not isinstance(values, list):
        raise ValueError("the geometry cannot be read: coordinates are missing or not a list")
    if depth:
        return [_read_positions(value, depth - 1) for value in values]
    numbers = list(map(to_double, values[:3]))
    if len(numbers) < 2 or None in numbers or not all(map(math.isfinite, numbers)):
        raise ValueError("the geometry cannot be read: a position is not two numbers")
    return numbers[:2]


def _read_rings(rings: list[list[list[float]]]) -> list[list[list[float]]]:
    """The rings of a polygon that enclose an area; an empty list if its outline does not."""
    for ring in rings:
        if 0 < len(ring) < 3:
            raise ValueError("a ring has fewer than three positions")
        if ring and ring[0] != ring[-1]:
            raise ValueError("a ring is not closed")
    if rings and not rings[0] and any(rings):
        raise ValueError("a hole has no outline around it")
    return [ring for ring in rings if len(ring) > 3] if rings and len(rings[0]) > 3 else []


def to_double(value: Any) -> float | None:
    """The number that Gson's ``getAsDouble`` returns, which accepts numbers in quotes; None if it rejects the value."""
    if isinstance(value, str):
        return float(value.strip().rstrip("fFdD")) if _JAVA_DOUBLE.fullmatch(value) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _is_known(geometry: dict[str, Any]) -> bool:
    return isinstance(geometry.get("type"), str) and geometry["type"] in GEOMETRIES


def _is_primitive(value: Any) -> bool:
    """True if Gson's ``getAsString`` accepts a value."""
    return isinstance(value, str | int | float)


def _is_int(value: Any) -> bool:
    """True if Gson's ``getAsInt`` accepts a value: any number, which is truncated, or an integer in quotes."""
    if isinstance(value, str):
        return re.fullmatch(r"[+-]?\d+", value) is not None
    return isinstance(value, int | float) and not isinstance(value, bool)
