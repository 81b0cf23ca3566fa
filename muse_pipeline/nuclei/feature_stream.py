"""The features of any GeoJSON file, one at a time and in bounded memory where every feature has its own line."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from muse_pipeline.errors import GeoJSONError
from muse_pipeline.files import open_unzipped

GEOJSON_SUFFIXES = (".geojson", ".json", ".geojson.gz", ".json.gz")
GEOMETRIES = frozenset(
    {"Point", "MultiPoint", "LineString", "MultiLineString", "Polygon", "MultiPolygon", "GeometryCollection"}
)
_LONGEST_HEAD = 1 << 16


def is_geometry(item: Any) -> bool:
    """Whether this is an object with the type of a geometry."""
    return isinstance(item, dict) and isinstance(kind := item.get("type"), str) and kind in GEOMETRIES


def iterate_features(path: Path | str) -> Iterator[Any]:
    """The members of a FeatureCollection or bare array, a single Feature, or a bare geometry; whatever they are.

    Raises:
        GeoJSONError: the file is missing, its compression is damaged, or it is no such JSON; with the number, from 1,
            of the feature where reading ended.
    """
    try:
        with open_unzipped(Path(path)) as file:
            head, has_lines = _read_head(file)
            if has_lines:
                yield from _iterate_lines(file, head, path)
            else:
                yield from _members(_loads_whole(head + file.read(), path), path)
    except FileNotFoundError as error:
        raise GeoJSONError(f"{path}: no such file; give the path of a GeoJSON file") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise GeoJSONError(f"{path}: the gzip compression is damaged ({error})") from error
    except OSError as error:
        raise GeoJSONError(f"{path}: cannot be read ({error.strerror}); give the path of a GeoJSON file") from error


def _read_head(file: BinaryIO) -> tuple[bytes, bool]:
    """What stands before the first feature, up to ``[``, and True if features have lines of their own.

    Otherwise the first lines of the file and False.
    """
    head = b""
    while len(head) < _LONGEST_HEAD and (line := file.readline()):
        head += line
        if line.rstrip().endswith(b"["):
            begin = file.tell()
            first = file.readline().strip()
            file.seek(begin)
            return head, first.startswith(b"]") or _is_object(first.removesuffix(b","))
    return head, False


def _is_object(text: bytes) -> bool:
    try:
        return isinstance(_loads(text), dict)
    except ValueError:
        return False


def _iterate_lines(file: BinaryIO, head: bytes, path: Path | str) -> Iterator[Any]:
    number, comma = 0, True
    for line in file:
        text = line.strip()
        if text.startswith(b"]"):
            if number and comma:
                raise GeoJSONError(f"{path}: after feature {number}: a comma before ']'; remove it")
            _loads_whole(head + text + file.read(), path)
            return
        if text.startswith(b",") and not comma:
            text, comma = text[1:].lstrip(), True
        if not text:
            continue
        number += 1
        if not comma:
            raise GeoJSONError(f"{path}: feature {number}: no comma before it")
        comma = text.endswith(b",")
        try:
            feature = _loads(text.removesuffix(b","))
        except ValueError as error:
            try:  # features may now share lines, or have several: the rest is a document without the first ones
                rest = _loads(head + text + b"\n" + file.read())
            except ValueError:
                raise GeoJSONError(f"{path}: feature {number}: not JSON ({error})") from error
            yield from _members(rest, path)
            return
        yield feature
    raise GeoJSONError(f"{path}: ends after feature {number} without ']'; it was cut off")


def _members(document: Any, path: Path | str) -> Iterator[Any]:
    kind = str(document.get("type")) if isinstance(document, dict) else None
    if isinstance(document, list):
        yield from document
    elif kind == "FeatureCollection" and isinstance(document.get("features"), list):
        yield from document["features"]
    elif kind == "Feature" or kind in GEOMETRIES:
        yield document
    else:
        raise GeoJSONError(f"{path}: neither a FeatureCollection nor a list of features, a Feature or a geometry")


def _loads_whole(text: bytes, path: Path | str) -> Any:
    try:
        return _loads(text)
    except ValueError as error:
        position = getattr(error, "pos", len(text))
        before = text[: position + 1].decode(errors="replace") if position < len(text) else ""
        comma = re.search(r",\s*[\]}]$", before[-100:])
        reason = f"a comma before '{before[-1]}'; remove it" if comma else f"not JSON ({error})"
        raise GeoJSONError(f"{path}: {reason}") from error


def _loads(text: bytes) -> Any:
    """Parse JSON; NaN and Infinity, which Gson reads as well, become floats."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        try:
            return json.loads(text.decode("utf-8-sig"))
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
