"""Read the features of a GeoJSON file one at a time; memory is bounded if each has its own line."""

from __future__ import annotations

import gzip
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from muse_pipeline.core.errors import GeoJSONError
from muse_pipeline.qupath.objects import with_children

GEOJSON_SUFFIXES = (".geojson", ".json", ".geojson.gz", ".json.gz", ".zip")
GEOMETRIES = frozenset(
    {"Point", "MultiPoint", "LineString", "MultiLineString", "Polygon", "MultiPolygon", "GeometryCollection"}
)
COLLECTION, LIST, ALONE = "FeatureCollection", "list", "document"  # where an item was found
_LONGEST_HEAD = 1 << 16
_HEAD = re.compile(rb'(\xef\xbb\xbf)?\s*(\[|\{.*"type"\s*:\s*"FeatureCollection".*"features"\s*:\s*\[)\s*', re.DOTALL)


def is_geometry(item: Any) -> bool:
    """True if ``item`` is a JSON object with the type of a geometry."""
    return isinstance(item, dict) and isinstance(kind := item.get("type"), str) and kind in GEOMETRIES


@contextmanager
def open_geojson(path: Path | str) -> Iterator[BinaryIO]:
    """Open a GeoJSON file, whatever its name: plain, gzip, or a zip that contains one of these."""
    try:
        with ExitStack() as stack:
            file = stack.enter_context(Path(path).open("rb"))
            if file.peek(2).startswith(b"PK"):
                archive = stack.enter_context(zipfile.ZipFile(file))
                file = stack.enter_context(open_member(archive, _only_geojson(archive, path)))
            if file.peek(2).startswith(b"\x1f\x8b"):
                file = stack.enter_context(gzip.open(file))
            yield file
    except FileNotFoundError as error:
        raise GeoJSONError(f"{path}: no such file; give the path of a GeoJSON file") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise GeoJSONError(f"{path}: the gzip compression is damaged ({error}); export it again") from error
    except zipfile.BadZipFile as error:
        raise GeoJSONError(f"{path}: the zip file cannot be unpacked ({error}); export it again") from error
    except OSError as error:
        raise GeoJSONError(f"{path}: cannot be read ({error.strerror}); give the path of a GeoJSON file") from error


def open_member(archive: zipfile.ZipFile, name: str) -> BinaryIO:
    """Open a file in a zip."""
    try:
        return archive.open(name)
    except (NotImplementedError, RuntimeError) as error:
        raise zipfile.BadZipFile(str(error)) from error


def list_geojson(archive: zipfile.ZipFile) -> list[str]:
    """Names of the GeoJSON files in a zip, without those that macOS adds."""
    names = [name for name in archive.namelist() if name.lower().endswith(GEOJSON_SUFFIXES[:-1])]
    return [name for name in names if not name.startswith("__MACOSX/")]


def _only_geojson(archive: zipfile.ZipFile, path: Path | str) -> str:
    names = list_geojson(archive)
    if len(names) != 1:
        found = f"{len(names)} GeoJSON files ({', '.join(names[:3])})" if names else "no .geojson or .json file"
        raise GeoJSONError(f"{path}: the zip contains {found}, expected one; unpack it and give that file")
    return names[0]


def iterate_features(path: Path | str) -> Iterator[Any]:
    """Yield the members of a FeatureCollection or array, or the Feature or geometry that is the whole document.

    Each object is followed by its children; none of them is checked.

    Args:
        path: path of a GeoJSON file: plain, gzip, or a zip that contains only one such file.
    """
    with open_geojson(path) as file:
        for item, container in iterate_items(file, path):
            if container == ALONE and not (
                is_geometry(item) or (isinstance(item, dict) and item.get("type") == "Feature")
            ):
                raise GeoJSONError(
                    f"{path}: neither a FeatureCollection nor a list of features, nor a Feature or geometry"
                )
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


def iterate_items(file: BinaryIO, path: Path | str, parse: Callable[[bytes], Any] = loads) -> Iterator[tuple[Any, str]]:
    """Yield the members of a FeatureCollection or array, or otherwise the whole document.

    Args:
        file: file of UTF-8 text.
        path: path of the file, for messages.
        parse: function that parses a document, or raises ValueError.

    Yields:
        Each item, with where it was found: ``COLLECTION``, ``LIST`` or ``ALONE``.
    """
    head, has_lines = _read_head(file)
    if has_lines:
        yield from _iterate_lines(file, head, path, parse)
    else:
        yield from _split(_parse_document(head + file.read(), path, parse))


def _read_head(file: BinaryIO) -> tuple[bytes, bool]:
    """Read up to the ``[`` before the first feature, and tell whether each feature seems to have its own line.

    If no line ends in ``[``, returns the first lines and False.
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
    container = COLLECTION if head.rstrip()[:-1].strip(b"\xef\xbb\xbf \t\r\n") else LIST
    number, comma = 0, True
    for line in file:
        text = line.strip()
        if text.startswith(b"]"):
            if number and comma:
                raise GeoJSONError(f"{path}: after feature {number}: a comma before ']'; remove it")
            yield from _split(_parse_document(head + text + file.read(), path, parse))
            return
        if text.startswith(b",") and not comma:
            text, comma = text[1:].lstrip(), True
        if not text:
            continue
        number += 1
        if not comma:
            raise GeoJSONError(f"{path}: feature {number}: no comma before it; add it")
        comma = text.endswith(b",")
        try:
            feature = parse(text.removesuffix(b","))
        except ValueError as error:
            try:  # from here on, features may not have their own lines: parse the rest as one document
                rest = parse(head + text + b"\n" + file.read())
            except ValueError:
                raise GeoJSONError(f"{path}: feature {number}: not JSON ({error}); export it again") from error
            yield from _split(rest)
            return
        yield feature, container
    raise GeoJSONError(f"{path}: ends after feature {number} without ']'; export it again")


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
        reason = f"a comma before '{before[-1]}'; remove it" if comma else f"not JSON ({error}); export it again"
        raise GeoJSONError(f"{path}: {reason}") from error
