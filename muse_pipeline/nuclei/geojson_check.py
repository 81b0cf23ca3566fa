"""Would QuPath import a GeoJSON file, and as what? Judged without QuPath, for files of any origin."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import shapely

from muse_pipeline.errors import GeoJSONError
from muse_pipeline.nuclei.feature_stream import GEOJSON_SUFFIXES, is_geometry, iterate_features
from muse_pipeline.nuclei.qupath_rules import VERSIONS, Fault, is_uuid, judge_feature
from muse_pipeline.nuclei.rays import QUPATH_GRID_PX
from muse_pipeline.qupath_words import properties_of, read_object_type

_SNAPPING = ("0.6", "0.7")
_BATCH = 4_096


@dataclass
class Verdict:
    """What QuPath does with a file.

    Attributes:
        n_by_type: objects by what they become.
        first: fault -> number, from 1, of the first feature that has it; 0 for the file itself.
        n_faulty: fault -> features that have it.
    """

    path: Path
    n_by_type: Counter = field(default_factory=Counter)
    first: dict[Fault, int] = field(default_factory=dict)
    n_faulty: Counter = field(default_factory=Counter)

    @property
    def is_good(self) -> bool:
        """Whether every version imports everything as it is meant."""
        return not self.first

    def refused_by(self) -> dict[str, Fault]:
        """Versions that refuse the whole file, each with what it stumbles over first."""
        faults = sorted(self.first, key=self.first.get)
        return {version: fault for version in VERSIONS for fault in reversed(faults) if version in fault.refused_by}

    def add(self, fault: Fault, number: int, n: int = 1) -> None:
        """Note a fault of feature ``number``."""
        self.first.setdefault(fault, number)
        self.n_faulty[fault] += n

    def __str__(self) -> str:
        refused = self.refused_by()
        accepted = [version for version in VERSIONS if version not in refused]
        outcomes = []
        for fault in dict.fromkeys(refused.values()):
            versions = [version for version, first in refused.items() if first == fault]
            outcomes.append(f"{_name_versions(versions)} refuses the whole file ({self._describe(fault)})")
        if accepted:
            outcomes.append(f"{_name_versions(accepted)} imports {self._count_objects()}")
        damages = [self._describe(fault) for fault in self.first if not fault.refused_by]
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


def _name_versions(versions: list[str]) -> str:
    return f"QuPath {versions[0]}" + (f" to {versions[-1]}" if len(versions) > 1 else "")


def check_geojson(path: Path | str) -> Verdict:
    """Judge a file; memory is bounded where every feature has a line of its own.

    Raises:
        GeoJSONError: there is no such file.
    """
    path = Path(path)
    verdict = Verdict(path)
    if not path.is_file():
        raise GeoJSONError(f"{path}: no such file; give the path of a GeoJSON file")
    if not path.name.endswith(GEOJSON_SUFFIXES):
        verdict.add(Fault(f"its name ends in none of {', '.join(GEOJSON_SUFFIXES)}", VERSIONS), 0)
        return verdict
    seen_ids = array("Q")
    try:
        features = iterate_features(path)
        n = 0
        while batch := list(islice(features, _BATCH)):
            for number, feature in enumerate(batch, start=n + 1):
                _judge(feature, number, verdict, seen_ids)
            for fault, index in _judge_geometries(batch):
                verdict.add(fault, n + 1 + index)
            n += len(batch)
    except GeoJSONError as error:
        verdict.add(Fault(str(error).removeprefix(f"{path}: "), VERSIONS), 0)
    _judge_duplicates(seen_ids, verdict)
    return verdict


def _judge(feature: Any, number: int, verdict: Verdict, seen_ids: array) -> None:
    for fault in judge_feature(feature):
        verdict.add(fault, number)
    if isinstance(feature, dict):
        verdict.n_by_type[read_object_type(properties_of(feature))] += 1
        seen_ids.append(_shorten_id(feature.get("id"), number))


def _shorten_id(text: Any, number: int) -> int:
    """64 bits of an id, so that millions can be compared; a number of its own for a feature without one."""
    return int(text[:8] + text[-8:], 16) if is_uuid(text) else number


def _judge_duplicates(seen_ids: array, verdict: Verdict) -> None:
    ids = np.frombuffer(seen_ids, np.uint64) if seen_ids else np.zeros(0, np.uint64)
    first = np.unique(ids, return_index=True)[1]
    if len(first) < len(ids):
        repeats = np.delete(np.arange(len(ids)), first)
        verdict.add(Fault("has the id of another feature"), int(repeats[0]) + 1, len(repeats))


def _judge_geometries(batch: Iterable[Any]) -> Iterator[tuple[Fault, int]]:
    """Faults of positions, each with the index of its feature in the batch."""
    texts, indices = [], []
    for index, feature in enumerate(batch):
        for geometry in _find_geometries(feature):
            fault = _judge_rings(geometry)
            if fault:
                yield fault, index
            else:
                texts.append(orjson.dumps(geometry).decode())
                indices.append(index)
    for fault, position in _judge_shapes(shapely.from_geojson(np.array(texts, object), on_invalid="ignore")):
        yield fault, indices[position]


def _find_geometries(feature: Any) -> list[Any]:
    if not isinstance(feature, dict):
        return []
    if is_geometry(feature):
        return [feature]
    return [feature.get("geometry"), *([feature["nucleusGeometry"]] if feature.get("nucleusGeometry") else [])]


def _judge_rings(geometry: Any) -> Fault | None:
    """What JTS says before it builds anything: rings must be closed; three positions pass and collapse later."""
    if not is_geometry(geometry):
        return Fault("has no geometry")
    coordinates = geometry.get("coordinates")
    try:
        polygons = {"Polygon": [coordinates], "MultiPolygon": coordinates}.get(geometry["type"], [])
        rings = [ring for polygon in polygons for ring in polygon]
        if any(len(ring) < 3 or ring[0] != ring[-1] for ring in rings):
            return Fault("a ring is not closed", VERSIONS)
        return _COLLAPSED if any(len(ring) == 3 for ring in rings) else None
    except (TypeError, KeyError):
        return _UNREADABLE


def _judge_shapes(geometries: np.ndarray) -> Iterator[tuple[Fault, int]]:
    """Faults of geometries (N,), None where GEOS could not build one, each with its index."""
    missing, is_valid = shapely.is_missing(geometries), shapely.is_valid(geometries)
    for index in np.flatnonzero(missing):
        yield _UNREADABLE, index
    snapped = geometries.copy()
    snapped[is_valid] = shapely.set_precision(geometries[is_valid], QUPATH_GRID_PX)
    for index in np.flatnonzero(~is_valid & ~missing):
        try:
            snapped[index] = shapely.set_precision(geometries[index], QUPATH_GRID_PX)
        except shapely.GEOSException:
            reason = shapely.is_valid_reason(geometries[index]).split("[")[0].lower()
            yield Fault(f"invalid geometry ({reason})", _SNAPPING), index
    for index in np.flatnonzero(shapely.is_empty(snapped)):
        yield _COLLAPSED, index


_UNREADABLE = Fault("the geometry cannot be read", VERSIONS)
_COLLAPSED = Fault(f"nothing is left of it on QuPath's grid of {QUPATH_GRID_PX} px")
