"""Predict, without QuPath, how it imports a GeoJSON file from any program.

Text that is not JSON, such as comments, single quotes or a comma before a bracket, counts as rejected, though QuPath's
parser is more lenient.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import zipfile
import zlib
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson
import shapely
from qupath_rules import (
    MOST_LEVELS,
    SINCE_06,
    VERSIONS,
    Fault,
    build_as_jts,
    count_levels,
    geometries_of,
    has_plain_rings,
    is_uuid,
    judge_feature,
    judge_geometry,
)

from muse_pipeline.core.errors import GeoJSONError
from muse_pipeline.nuclei.rays import QUPATH_GRID_PX
from muse_pipeline.qupath.objects import read_object_type, with_children
from muse_pipeline.qupath.parse import GEOJSON_SUFFIXES, is_geometry

_BATCH = 4_096
COLLECTION, LIST, ALONE = "FeatureCollection", "list", "document"  # where an item was found


@dataclass
class Verdict:
    """QuPath's treatment of a file.

    Attributes:
        n_by_type: object type in QuPath -> number of objects.
        first: fault -> number, from 1, of the first feature with it; 0 for the file itself.
        n_faulty: fault -> number of features with it.
    """

    path: Path
    n_by_type: Counter = field(default_factory=Counter)
    first: dict[Fault, int] = field(default_factory=dict)
    n_faulty: Counter = field(default_factory=Counter)

    @property
    def is_good(self) -> bool:
        """True if every version imports everything as intended."""
        return not self.first

    def rejected_by(self) -> dict[str, Fault]:
        """Version that rejects the whole file -> the first fault for which it does."""
        faults = sorted(self.first, key=self.first.get)
        return {version: fault for version in VERSIONS for fault in reversed(faults) if version in fault.rejected_by}

    def add(self, fault: Fault, number: int, n: int = 1) -> None:
        """Record ``n`` occurrences of a fault, the first of them in feature ``number``."""
        self.first.setdefault(fault, number)
        self.n_faulty[fault] += n

    def __str__(self) -> str:
        rejected = self.rejected_by()
        accepted = [version for version in VERSIONS if version not in rejected]
        outcomes = []
        for fault in dict.fromkeys(rejected.values()):
            versions = [version for version, first in rejected.items() if first == fault]
            outcomes.append(f"{_name_versions(versions)} rejects the whole file ({self._describe(fault)})")
        if accepted:
            outcomes.append(f"{_name_versions(accepted)} imports {self._count_objects()}")
        damages = [self._describe(fault) for fault in self.first if not fault.rejected_by]
        mark = "good" if self.is_good else "bad"
        return "\n  ".join([f"{self.path}: {mark}: {'; '.join(outcomes)}", *damages])

    def _count_objects(self) -> str:
        counts = [f"{n:,} {kind}{'s' if n != 1 else ''}" for kind, n in self.n_by_type.most_common()]
        return ", ".join(counts) or "no objects"

    def _describe(self, fault: Fault) -> str:
        if not self.first[fault]:
            return fault.reason
        others = self.n_faulty[fault] - 1
        return f"feature {self.first[fault]:,}{f' and {others:,} more' if others else ''}: {fault.reason}"


def _name_versions(versions: Sequence[str]) -> str:
    return f"QuPath {versions[0]}" + (f" to {versions[-1]}" if len(versions) > 1 else "")


def check_geojson(path: Path | str) -> Verdict:
    """Check a file.

    Raises:
        GeoJSONError: the file does not exist.
    """
    path = Path(path)
    verdict = Verdict(path)
    name = path.name.lower()
    if not path.is_file():
        raise GeoJSONError(f"{path}: no such file; give the path of a GeoJSON file")
    if not name.endswith(GEOJSON_SUFFIXES):
        verdict.add(Fault(f"its name ends in none of {', '.join(GEOJSON_SUFFIXES)}, so QuPath reads nothing"), 0)
        return verdict
    try:
        if name.endswith(".zip"):
            _check_zip(path, verdict)
        else:
            with path.open("rb") as file:
                _check_file(file, name, verdict)
    except zipfile.BadZipFile as error:
        verdict.add(Fault(f"the zip file cannot be unpacked ({error})", VERSIONS), 0)
    return verdict


def _check_file(file: BinaryIO, name: str, verdict: Verdict) -> None:
    """Check a file that is plain text or, if its name ends in .gz, compressed."""
    if not name.lower().endswith(".gz"):
        _check_text(file, verdict)
        return
    try:
        end, size = _find_end_of_gzip(file), file.seek(0, os.SEEK_END)
        if end < size:
            verdict.add(Fault(f"the {size - end:,} bytes after the end of the gzip compression are left out"), 0)
        file.seek(0)
        with gzip.open(file if end == size else io.BytesIO(file.read(end))) as unpacked:
            _check_text(unpacked, verdict)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        verdict.add(Fault(f"the gzip compression is damaged ({error})", VERSIONS), 0)


def _find_end_of_gzip(file: BinaryIO) -> int:
    """The position at which Java stops reading: the end of the first gzip member without another directly after it."""
    end = 0
    while file.read(2) == b"\x1f\x8b":
        file.seek(end)
        member = zlib.decompressobj(16 + zlib.MAX_WBITS)
        while not member.eof:
            if not (packed := file.read(1 << 16)):
                return file.tell()
            member.decompress(packed)
        end = file.seek(file.tell() - len(member.unused_data))
    return end or file.seek(0, os.SEEK_END)


def _check_zip(path: Path, verdict: Verdict) -> None:
    """Check the files in a zip; QuPath silently skips files that it rejects, and reads the others."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.lower().endswith(GEOJSON_SUFFIXES[:-1])]
        names = [name for name in names if not name.startswith("__MACOSX/")]  # without those that macOS adds
        if not names:
            verdict.add(Fault("the zip holds no .geojson or .json file, plain or with .gz"), 0)
        for name in names:
            inner = Verdict(path)
            try:
                with archive.open(name) as file:
                    _check_file(file, name, inner)
            except (NotImplementedError, RuntimeError) as error:
                raise zipfile.BadZipFile(str(error)) from error
            for fault, number in inner.first.items():
                lost = f"; {_name_versions(fault.rejected_by)} leaves this file out" if fault.rejected_by else ""
                verdict.add(Fault(f"{name}: {fault.reason}{lost}"), number, inner.n_faulty[fault])
            if not inner.rejected_by():
                verdict.n_by_type += inner.n_by_type


def _check_text(file: BinaryIO, verdict: Verdict) -> None:
    seen_ids = array("Q")
    items = _count_levels(_read_items(file), verdict)
    members = (
        (kind, each)
        for item, container in items
        for kind, member in _members(item, container)
        for each in with_children(member)
    )
    n = 0
    try:
        while batch := list(islice(members, _BATCH)):
            for number, (kind, member) in enumerate(batch, start=n + 1):
                _judge(kind, member, number, verdict, seen_ids)
            for fault, index in _judge_shapes([member for _, member in batch]):
                verdict.add(fault, n + 1 + index)
            n += len(batch)
    except ValueError as error:
        verdict.add(Fault(f"not JSON ({error})", VERSIONS), 0)
    except RecursionError:
        verdict.add(Fault("nested too deeply", VERSIONS), 0)
    if not verdict.n_by_type and not verdict.first:
        verdict.add(Fault("contains no objects"), 0)
    _judge_duplicates(seen_ids, verdict)


def _read_items(file: BinaryIO) -> Iterator[tuple[Any, str]]:
    """Yield the members of a FeatureCollection or array, or the whole document, each with where it was found."""
    document = _loads(file.read())
    if isinstance(document, list):
        yield from ((item, LIST) for item in document)
    elif (
        isinstance(document, dict) and document.get("type") == COLLECTION and isinstance(document.get("features"), list)
    ):
        yield from ((item, COLLECTION) for item in document["features"])
    else:
        yield document, ALONE


def _loads(text: bytes) -> Any:
    """Parse a document. NaN and Infinity become text, and an empty document becomes None.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        characters = text.decode("utf-8", errors="replace").removeprefix("\ufeff").strip()
    try:
        return json.loads(characters, parse_constant=str) if characters else None
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _count_levels(items: Iterator[tuple[Any, str]], verdict: Verdict) -> Iterator[tuple[Any, str]]:
    for number, (item, container) in enumerate(items, 1):
        if count_levels(item) + {COLLECTION: 2, LIST: 1, ALONE: 0}[container] > MOST_LEVELS:
            verdict.add(Fault(f"nested too deeply, in more than {MOST_LEVELS} levels", SINCE_06), number)
        yield item, container


def _members(item: Any, container: str) -> Iterator[tuple[str, Any]]:
    """Items of a document as QuPath sees them: features, bare geometries, and items that it skips.

    In a FeatureCollection every item counts as a feature; elsewhere the item's type decides.
    """
    if container == COLLECTION:
        yield "feature", item
    elif isinstance(item, list):
        for each in item:
            yield from _members(each, LIST)
    elif not isinstance(item, dict) or "type" not in item:
        yield _SKIPPED[container], None
    elif item["type"] == COLLECTION and isinstance(item.get("features"), list):
        for each in item["features"]:
            yield "feature", each
    elif item["type"] == "Feature":
        yield "feature", item
    elif is_geometry(item):
        yield "geometry", {"geometry": item}
    else:
        yield "untyped" if item["type"] is None else _SKIPPED[container], None


_SKIPPED = {LIST: "skipped", ALONE: "no features"}
_FAULTS = {
    "geometry": Fault("a geometry without a feature becomes an annotation"),
    "untyped": Fault("type is null", VERSIONS),
    "skipped": Fault("is skipped without a message, as its type is neither Feature nor a geometry's"),
    "no features": Fault("holds no features that QuPath reads"),
}


def _judge(kind: str, member: Any, number: int, verdict: Verdict, seen_ids: array) -> None:
    if kind in _FAULTS:
        verdict.add(_FAULTS[kind], 0 if kind == "no features" else number)
    if kind == "geometry":
        verdict.n_by_type["annotation"] += 1
    if kind == "feature":
        for fault in dict.fromkeys(judge_feature(member)):
            verdict.add(fault, number)
        if isinstance(member, dict):
            verdict.n_by_type[read_object_type(member)] += 1
            seen_ids.append(_shorten_id(member.get("id"), number))


def _shorten_id(text: Any, number: int) -> int:
    """64 bits of an id, so that millions of ids can be compared; ``number`` for a feature without a valid id."""
    if not is_uuid(text):
        return number
    first, *_, last = text.split("-")
    return int(first[-8:].zfill(8) + last[-8:].zfill(8), 16)


def _judge_duplicates(seen_ids: array, verdict: Verdict) -> None:
    ids = np.frombuffer(seen_ids, np.uint64) if seen_ids else np.zeros(0, np.uint64)
    first = np.unique(ids, return_index=True)[1]
    if len(first) < len(ids):
        repeats = np.delete(np.arange(len(ids)), first)
        verdict.add(Fault("has the id of another feature"), int(repeats[0]) + 1, len(repeats))


def _judge_shapes(batch: list[Any]) -> Iterator[tuple[Fault, int]]:
    """Yield the faults of the features' geometries, each with the index of its feature in the batch."""
    found = [(index, geometry) for index, feature in enumerate(batch) for geometry in geometries_of(feature)]
    if not found:
        return
    indices, geometries = zip(*found, strict=True)
    for index, fault in zip(indices, map(judge_geometry, geometries), strict=True):
        if fault:
            yield fault, index
    shapes = shapely.from_geojson(np.array(list(map(_to_plain_text, geometries)), object), on_invalid="ignore")
    for number in np.flatnonzero(shapely.is_missing(shapes)):
        try:
            shapes[number] = build_as_jts(geometries[number])
        except ValueError as error:
            yield Fault(str(error), VERSIONS), indices[number]
            shapes[number] = _NOT_BUILT
    for fault, number in _judge_built(shapes):
        yield fault, indices[number]


def _to_plain_text(geometry: dict[str, Any]) -> bytes | None:
    """The text of a geometry, if GEOS builds it as JTS does; None if it must be built by `build_as_jts`."""
    if not has_plain_rings(geometry):
        return None
    try:
        return orjson.dumps(geometry)
    except TypeError:  # a number beyond 64 bits
        return None


def _judge_built(shapes: np.ndarray) -> Iterator[tuple[Fault, int]]:
    """Yield faults of geometries (N,), each with its index; None is a geometry whose outline encloses nothing."""
    is_valid = shapely.is_valid(shapes)
    snapped = shapes.copy()
    snapped[is_valid] = shapely.set_precision(shapes[is_valid], QUPATH_GRID_PX)
    for index in np.flatnonzero(~is_valid & ~shapely.is_missing(shapes)):
        try:
            snapped[index] = shapely.set_precision(shapes[index], QUPATH_GRID_PX)
        except shapely.GEOSException:
            reason = shapely.is_valid_reason(shapes[index]).split("[")[0].lower()
            yield Fault(f"invalid geometry ({reason})", SINCE_06), index
    for index in np.flatnonzero(shapely.is_empty(snapped) | shapely.is_missing(snapped)):
        yield _COLLAPSED, index


_COLLAPSED = Fault(f"is empty, or nothing is left of it on QuPath's grid of {QUPATH_GRID_PX} px")
_NOT_BUILT = shapely.Point(0, 0)  # placeholder for rejected geometries
