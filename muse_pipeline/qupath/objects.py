"""Types and classes of QuPath objects in GeoJSON, in every form that QuPath has written."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

OBJECT_TYPES = ("detection", "cell", "annotation", "tile", "tmaCore", "root")
TYPE_KEYS = ("objectType", "object_type", "type")  # properties with the type, in the order in which QuPath reads them
LEGACY_IDS = {  # QuPath 0.2 wrote the type as the feature's id
    "PathDetectionObject": "detection",
    "PathCellObject": "cell",
    "PathAnnotationObject": "annotation",
    "PathTileObject": "tile",
    "TMACoreObject": "tmaCore",
    "PathRootObject": "root",
}
_TYPE_OF_WORD = {word: word for word in OBJECT_TYPES} | LEGACY_IDS | {"tma_core": "tmaCore"}
TYPE_NAMES = {kind: kind for kind in OBJECT_TYPES} | {"tmaCore": "TMA core", "root": "root object"}  # names in messages
OUTSIDE = "annotation outside the slide"
_PLURALS = {
    OUTSIDE: "annotations outside the slide",
    "object on a plane above 0": "objects on a plane above 0",
    "object without a shape": "objects without a shape",
    "annotation of class 'Ignore'": "annotations of class 'Ignore'",
    "area without a class": "areas without a class",
}

REGION = "Region"  # QuPath's own class is "Region*"
IGNORED = ("Tissue", "Ignore")
_WITH_DERIVED = {REGION, *IGNORED}  # classes that include their derived classes, such as "Ignore*: Positive"


def properties_of(feature: Mapping[str, Any]) -> dict[str, Any]:
    """The properties of a feature; empty if they are not an object."""
    properties = feature.get("properties")
    return properties if isinstance(properties, dict) else {}


def with_children(feature: Any) -> Iterator[Any]:
    """Yield a feature, then all features within it: QuPath writes the children of an object in its properties."""
    yield feature
    properties = properties_of(feature) if isinstance(feature, dict) else {}
    children = properties.get("childObjects", properties.get("children"))
    for child in children if isinstance(children, list) else ():
        yield from with_children(child)


def type_of_word(word: Any) -> str | None:
    """The object type that a word in a file stands for; None if QuPath does not define the word."""
    return _TYPE_OF_WORD.get(word) if isinstance(word, str) else None


def read_object_type(feature: Mapping[str, Any]) -> str:
    """The type of a feature in QuPath, one of ``OBJECT_TYPES``; "annotation" if it has no known type."""
    properties = properties_of(feature)
    word = next((properties[key] for key in TYPE_KEYS if properties.get(key) is not None), None)
    if word is None:
        word = next((legacy for legacy in LEGACY_IDS if feature.get("id") == legacy), None)
    return type_of_word(word) or "annotation"


def read_class_name(classification: Any) -> str | None:
    """The name in a classification, a string or an object with ``name`` or ``names``; None if there is none."""
    if isinstance(classification, dict):
        names = classification.get("names")
        several = ": ".join(map(str, names)) if isinstance(names, list) else names
        classification = classification.get("name") or several
    return str(classification) if classification else None


def is_called(words: Collection[str], class_name: str | None, name: str | None = None) -> bool:
    """True if an object's class or own name is one of ``words``, with or without the ``*`` of QuPath's classes.

    A class derived from "Ignore*", "Region*" or "Tissue", such as "Ignore*: Positive", counts as that class.
    """
    called = {str(word).rstrip("*") for word in (class_name, name) if word is not None}
    if class_name is not None:
        called |= {class_name.split(":")[0].rstrip("*")} & _WITH_DERIVED
    return not called.isdisjoint(words)


def why_left_out(
    shapes: np.ndarray, geometries: Sequence[Any], types: Sequence[str], unwanted: Collection[str]
) -> np.ndarray:
    """The reason why each object cannot be used, as a noun for ``list_counts``; "" for usable objects.

    Objects without a shape have None in ``shapes`` (N,). Objects whose type in ``types`` is ``unwanted`` are not used.
    """
    bounds, dimensions = shapely.bounds(shapes), shapely.get_dimensions(shapes)
    # An empty ROI has no positions in QuPath 0.4 and 0.5, and is an outline of a single position in 0.6 and 0.7.
    is_empty = shapely.is_empty(shapes) | ((dimensions == 2) & (bounds[:, :2] == bounds[:, 2:]).all(1))
    reasons = np.where(dimensions == 1, "line", "").astype(object)
    reasons[is_empty] = "empty object"
    planes = [geometry.get("plane") if isinstance(geometry, dict) else None for geometry in geometries]
    is_above = [isinstance(plane, dict) and bool(plane.get("z") or plane.get("t")) for plane in planes]
    reasons[is_above] = "object on a plane above 0"  # a bright-field slide has only the plane z = 0, t = 0
    reasons[shapely.is_missing(shapes)] = "object without a shape"
    for index, kind in enumerate(types):
        if kind in unwanted:
            reasons[index] = TYPE_NAMES[kind]
    return reasons


def list_counts(counts: Mapping[str, int]) -> str:
    """Counts, keyed by singular nouns, as text: "1 line, 3 detections and 2 points"; "no objects" if all are 0."""
    named = [f"{n:,} {noun if n == 1 else _PLURALS.get(noun, f'{noun}s')}" for noun, n in counts.items() if n]
    return " and ".join(filter(None, [", ".join(named[:-1]), *named[-1:]])) or "no objects"


def shape_to_geojson(shape: BaseGeometry) -> dict[str, Any]:
    """Convert a shape to a GeoJSON geometry; QuPath 0.4 and 0.5 reject a multipolygon of one part."""
    if shape.geom_type == "MultiPolygon" and len(shape.geoms) == 1:
        shape = shape.geoms[0]
    return json.loads(shapely.to_geojson(shape))
