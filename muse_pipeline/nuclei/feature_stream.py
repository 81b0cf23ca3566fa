"""The features of any GeoJSON file, one at a time and in bounded memory where every feature has its own line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from muse_pipeline.errors import GeoJSONError
from muse_pipeline.files import open_geojson

GEOJSON_SUFFIXES = (".geojson", ".json", ".geojson.gz", ".json.gz", ".zip")
GEOMETRIES = frozenset(
    {"Point", "MultiPoint", "LineString", "MultiLineString", "Polygon", "MultiPolygon", "GeometryCollection"}
)
COLLECTION, LIST, ALONE = "FeatureCollection", "list", "document"  # what an item is a member of
_LONGEST_HEAD = 1 << 16
_HEAD = re.compile(rb'(\xef\xbb\xbf)?\s*(\[|\{.*"type"\s*:\s*"FeatureCollection".*"features"\s*:\s*\[)\s*', re.DOTALL)


def is_geometry(item: Any) -> bool:
    """Whether this is an object with the type of a geometry."""
    return isinstance(item, dict) and isinstance(kind := item.get("type"), str) and kind in GEOMETRIES


def iterate_features(path: Path | str) -> Iterator[Any]:
    """The members of a FeatureCollection or bare array, a single Feature, or a bare geometry; whatever they are.

    Args:
        path: plain, in gzip or the only GeoJSON file of a zip.

    Raises:
        GeoJSONError: the file is missing, its compression is damaged, or it is no such JSON; with the number, from 1,
            of the feature where reading ended.
    """
    with open_geojson(path) as file:
        for item, place in iterate_items(file, path):
            if place == ALONE and not (is_geometry(item) or (isinstance(item, dict) and item.get("type") == "Feature")):
                raise GeoJSONError(
                    f"{path}: neither a FeatureCollection nor a list of features, a Feature or a geometry"
                )
            yield item


def loads(text: bytes) -> Any:
    """Parse JSON; NaN and Infinity, which QuPath writes as well, become floats.

    Raises:
        ValueError: it is none.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        try:
            return json.loads(text.decode("utf-8-sig"))
        except RecursionError as error:
            raise ValueError("nested too deeply") from error


def iterate_items(file: BinaryIO, path: Path | str, parse: Callable[[bytes], Any] = loads) -> Iterator[tuple[Any, str]]:
    """The members of a FeatureCollection or of a bare array, else the whole document.

    Args:
        file: UTF-8.
        path: for messages.
        parse: parses a document, or raises ValueError.

    Returns:
        Each item, with ``COLLECTION``, ``LIST`` or ``ALONE``.

    Raises:
        GeoJSONError: the text is no JSON.
    """
    head, has_lines = _read_head(file)
    if has_lines:
        yield from _iterate_lines(file, head, path, parse)
    else:
        yield from _split(_parse_document(head + file.read(), path, parse))


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
            is_line = first.startswith(b"]") or _is_object(first.removesuffix(b","))
            return head, is_line and _HEAD.fullmatch(head) is not None
    return head, False


def _is_object(text: bytes) -> bool:
    try:
        return isinstance(loads(text), dict)
    except ValueError:
        return False


def _iterate_lines(
    file: BinaryIO, head: bytes, path: Path | str, parse: Callable[[bytes], Any]
) -> Iterator[tuple[Any, str]]:
    place = COLLECTION if head.rstrip()[:-1].strip(b"\xef\xbb\xbf \t\r\n") else LIST
    number, comma = 0, True
    for line in file:
        text = line.strip()
        if text.startswith(b"]"):
            yield from _end(head, text + file.read(), number if comma else 0, path, parse)
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
            feature = parse(text.removesuffix(b","))
        except ValueError as error:
            try:  # features may now share lines, or have several: the rest is a document without the first ones
                rest = parse(head + text + b"\n" + file.read())
            except ValueError:
                raise GeoJSONError(f"{path}: feature {number}: not JSON ({error})") from error
            yield from _split(rest)
            return
        yield feature, place
    raise GeoJSONError(f"{path}: ends after feature {number} without ']'; it was cut off")


def _end(
    head: bytes, text: bytes, n_before_comma: int, path: Path | str, parse: Callable[[bytes], Any]
) -> list[tuple[Any, str]]:
    """Parse what remains of a document from ``]`` on; after a comma a lenient parser finds one more item, a null."""
    if not n_before_comma:
        return list(_split(_parse_document(head + text, path, parse)))
    try:
        return list(_split(parse(head + b"0," + text)))[1:]
    except ValueError as error:
        raise GeoJSONError(f"{path}: after feature {n_before_comma}: a comma before ']'; remove it") from error


def _split(document: Any) -> Iterator[tuple[Any, str]]:
    if isinstance(document, list):
        yield from ((item, LIST) for item in document)
        return
    is_collection = isinstance(document, dict) and document.get("type") == COLLECTION
    if is_collection and isinstance(document.get("features"), list):
        yield from ((item, COLLECTION) for item in document["features"])
    else:
        yield document, ALONE


def _parse_document(text: bytes, path: Path | str, parse: Callable[[bytes], Any]) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        position = getattr(error, "pos", len(text))
        before = text[: position + 1].decode(errors="replace") if position < len(text) else ""
        comma = re.search(r",\s*[\]}]$", before[-100:])
        reason = f"a comma before '{before[-1]}'; remove it" if comma else f"not JSON ({error})"
        raise GeoJSONError(f"{path}: {reason}") from error
