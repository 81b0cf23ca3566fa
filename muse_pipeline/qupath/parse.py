"""Features of GeoJSON: their types and classes in every form that QuPath has written, and reading
them one at a time.

Memory is bounded if each feature of a file has its own line.
"""

from __future__ import annotations

import gzip
import json
import re
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson
import shapely
from shapely.geometry.base import BaseGeometry

from muse_pipeline.core.content import name_content
from muse_pipeline.core.errors import GeoJSONError

OBJECT_TYPES = ("detection", "cell", "annotation", "tile", "tmaCore", "root")
# properties with the type, in the order in which QuPath reads them
TYPE_KEYS = ("objectType", "object_type", "type")
_TYPE_OF_WORD = {word: word for word in OBJECT_TYPES} | {"tma_core": "tmaCore"}
# names in messages
TYPE_NAMES = {kind: kind for kind in OBJECT_TYPES} | {"tmaCore": "TMA core", "root": "root object"}
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
# classes that include their derived classes, such as "Ignore*: Positive"
_WITH_DERIVED = {REGION, *IGNORED}


def properties_of(feature: Mapping[str, Any]) -> dict[str, Any]:
    """The properties of a feature; empty if they are not an object."""
    properties = feature.get("properties")
    return properties if isinstance(properties, dict) else {}


def with_children(feature: Any) -> Iterator[Any]:
    """Yield a feature, then all features within it: QuPath writes the children of an object in its
    properties.
    """
    yield feature
    properties = properties_of(feature) if isinstance(feature, dict) else {}
    children = properties.get("childObjects", properties.get("children"))
    for child in children if isinstance(children, list) else ():
        yield from with_children(child)


def read_object_type(feature: Mapping[str, Any]) -> str:
    """The type of a feature in QuPath, one of ``OBJECT_TYPES``; "annotation" if it has no known
    type.
    """
    properties = properties_of(feature)
    word = next((properties[key] for key in TYPE_KEYS if properties.get(key) is not None), None)
    return _TYPE_OF_WORD.get(str(word), "annotation")


def read_class_name(classification: Any) -> str | None:
    """The name in a classification, a string or an object with ``name`` or ``names``; None if there
    is none.
    """
    if isinstance(classification, dict):
        names = classification.get("names")
        several = ": ".join(map(str, names)) if isinstance(names, list) else names
        classification = classification.get("name") or several
    return str(classification) if classification else None


def is_called(words: Collection[str], class_name: str | None, name: str | None = None) -> bool:
    """True if an object's class or own name is one of ``words``, with or without the ``*`` of
    QuPath's classes.

    A class derived from "Ignore*", "Region*" or "Tissue", such as "Ignore*: Positive", counts as
    that class.
    """
    called = {str(word).rstrip("*") for word in (class_name, name) if word is not None}
    if class_name is not None:
        called |= {class_name.split(":")[0].rstrip("*")} & _WITH_DERIVED
    return not called.isdisjoint(words)


def why_left_out(
    shapes: np.ndarray, geometries: Sequence[Any], types: Sequence[str], unwanted: Collection[str]
) -> np.ndarray:
    """The reason why each object cannot be used, as a noun for ``list_counts``; "" for usable
    objects.

    Objects without a shape have None in ``shapes`` (N,). Objects whose type in ``types`` is
    ``unwanted`` are not used.
    """
    bounds = shapely.bounds(shapes)
    dimensions = shapely.get_dimensions(shapes)
    # An empty ROI has no positions in QuPath 0.4 and 0.5, and is an outline of a single position in
    # 0.6 and 0.7.
    is_empty = shapely.is_empty(shapes) | (
        (dimensions == 2) & (bounds[:, :2] == bounds[:, 2:]).all(1)
    )
    reasons = np.where(dimensions == 1, "line", "").astype(object)
    reasons[is_empty] = "empty object"
    planes = [
        geometry.get("plane") if isinstance(geometry, dict) else None for geometry in geometries
    ]
    is_above = [
        isinstance(plane, dict) and bool(plane.get("z") or plane.get("t")) for plane in planes
    ]
    # a bright-field slide has only the plane z = 0, t = 0
    reasons[is_above] = "object on a plane above 0"
    reasons[shapely.is_missing(shapes)] = "object without a shape"
    for index, kind in enumerate(types):
        if kind in unwanted:
            reasons[index] = TYPE_NAMES[kind]
    return reasons


def list_counts(counts: Mapping[str, int]) -> str:
    """Counts, keyed by singular nouns, as text: "1 line, 3 detections and 2 points"; "no objects"
    if all are 0.
    """
    named = [
        f"{n:,} {noun if n == 1 else _PLURALS.get(noun, f'{noun}s')}"
        for noun, n in counts.items()
        if n
    ]
    return " and ".join(filter(None, [", ".join(named[:-1]), *named[-1:]])) or "no objects"


def shape_to_geojson(shape: BaseGeometry) -> dict[str, Any]:
    """Convert a shape to a GeoJSON geometry; QuPath 0.4 and 0.5 reject a multipolygon of one
    part.
    """
    if shape.geom_type == "MultiPolygon" and len(shape.geoms) == 1:
        shape = shape.geoms[0]
    return json.loads(shapely.to_geojson(shape))


GEOJSON_SUFFIXES = (".geojson", ".json", ".geojson.gz", ".json.gz", ".zip")
GEOMETRIES = frozenset(
    {
        "Point",
        "MultiPoint",
        "LineString",
        "MultiLineString",
        "Polygon",
        "MultiPolygon",
        "GeometryCollection",
    }
)
_LONGEST_HEAD = 1 << 16
_HEAD = re.compile(
    rb'(\xef\xbb\xbf)?\s*(\[|\{.*"type"\s*:\s*"FeatureCollection".*"features"\s*:\s*\[)\s*',
    re.DOTALL,
)


def is_geometry(item: Any) -> bool:
    """True if ``item`` is a JSON object with the type of a geometry."""
    return (
        isinstance(item, dict) and isinstance(kind := item.get("type"), str) and kind in GEOMETRIES
    )


@contextmanager
def open_geojson(path: Path | str) -> Iterator[BinaryIO]:
    """Open a GeoJSON file, whatever its name: plain, gzip, or a zip that contains one of these."""
    try:
        with ExitStack() as stack:
            file = stack.enter_context(Path(path).open("rb"))
            if file.peek(2).startswith(b"PK"):
                archive = stack.enter_context(zipfile.ZipFile(file))
                file = stack.enter_context(_open_member(archive, path))
            if file.peek(2).startswith(b"\x1f\x8b"):
                file = stack.enter_context(gzip.open(file))
            yield file
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        why = getattr(error, "strerror", None) or error
        raise GeoJSONError(
            f"{path}: cannot be read ({why}); give the path of a GeoJSON file, or export it again"
        ) from error


def _open_member(archive: zipfile.ZipFile, path: Path | str) -> BinaryIO:
    """Open the GeoJSON file in a zip, which may also contain files that macOS adds."""
    names = [name for name in archive.namelist() if name.lower().endswith(GEOJSON_SUFFIXES[:-1])]
    names = [name for name in names if not name.startswith("__MACOSX/")]
    if len(names) != 1:
        content = (
            f"{len(names)} GeoJSON files ({', '.join(names[:3])})"
            if names
            else "no .geojson or .json file"
        )
        raise GeoJSONError(
            f"{path}: the zip contains {content}, expected one; unpack it and give that file"
        )
    try:
        return archive.open(names[0])
    except (NotImplementedError, RuntimeError) as error:
        raise zipfile.BadZipFile(str(error)) from error


def iterate_features(path: Path | str) -> Iterator[Any]:
    """Yield the members of a FeatureCollection or array, or the Feature or geometry that is the
    whole document.

    The file is plain, gzip, or a zip that contains only one such file. Each object is followed by
    its children; none of them is checked.
    """
    with open_geojson(path) as file:
        head = _read_head(file)
        items = (
            _iterate_lines(file, head, path)
            if _HEAD.fullmatch(head)
            else _parse_document(head + file.read(), path)
        )
        for item in items:
            yield from with_children(item)


def loads(text: bytes) -> Any:
    """Parse JSON; NaN and Infinity, which QuPath also writes, become floats."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        try:
            return json.loads(text.decode("utf-8-sig"))
        except RecursionError as error:
            raise ValueError("nested too deeply") from error


def _read_head(file: BinaryIO) -> bytes:
    """Read up to a ``[`` at the end of a line, after which each feature may have its own line."""
    head = b""
    while len(head) < _LONGEST_HEAD and (line := file.readline()):
        head += line
        if line.rstrip().endswith(b"["):
            break
    return head


def _iterate_lines(file: BinaryIO, head: bytes, path: Path | str) -> Iterator[Any]:
    text = b""
    for line in file:
        text = line.strip().lstrip(b", ")
        if text:
            try:
                feature = loads(text.rstrip(b","))
            except ValueError:  # the end, or a feature that does not have its own line
                break
            yield feature
    yield from _parse_document(head + text + b"\n" + file.read(), path)


def _split(document: Any, path: Path | str) -> list[Any]:
    """The members of a FeatureCollection or array, or the Feature or geometry that is the whole
    document.
    """
    if isinstance(document, dict):
        if document.get("type") == "FeatureCollection" and isinstance(
            document.get("features"), list
        ):
            return document["features"]
        if document.get("type") == "Feature" or is_geometry(document):
            return [document]
    if isinstance(document, list):
        return document
    raise GeoJSONError(
        f"{path}: neither a FeatureCollection nor a list of features, nor a Feature or geometry"
    )


def _parse_document(text: bytes, path: Path | str) -> list[Any]:
    try:
        document = loads(text)
    except ValueError as error:
        reason = name_content(path) or f"not JSON ({error}); export it again as GeoJSON"
        raise GeoJSONError(f"{path}: {reason}") from error
    return _split(document, path)
