"""Check a GeoJSON file by the strictest of the rules of QuPath 0.4 to 0.7."""

from __future__ import annotations

import gzip
import json
import math
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import shapely

TYPES = {"annotation", "detection", "cell", "tma_core"}
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass
class Verdict:
    """QuPath's treatment of a file.

    Attributes:
        n_by_type: object type in QuPath -> number of objects.
        faults: reasons why a version rejects the file or changes an object.
    """

    n_by_type: Counter = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """True if every version imports everything as intended."""
        return not self.faults and self.n_by_type.total() > 0


def check_geojson(path: Path | str) -> Verdict:
    """Check a file, ``.geojson`` or ``.geojson.gz``."""
    with (gzip.open if str(path).endswith(".gz") else open)(path, "rt", encoding="utf-8") as file:
        value = json.load(file, parse_constant=lambda name: math.nan)
    features, verdict = value["features"] if isinstance(value, dict) else value, Verdict()
    for number, feature in enumerate(features, 1):
        properties = feature["properties"]
        verdict.n_by_type[properties.get("objectType")] += 1
        verdict.faults += [
            f"feature {number}: {name}"
            for name, is_sound in _judge(feature).items()
            if not is_sound
        ]
    ids = [
        feature["id"] for feature in features if "id" in feature
    ]  # QuPath gives the others an id
    if len(set(ids)) < len(ids):
        verdict.faults.append("an id is used twice")
    return verdict


def _judge(feature: dict[str, Any]) -> dict[str, bool]:
    properties = feature["properties"]
    kind, word = properties.get("objectType"), properties.get("classification")
    shapes = [feature["geometry"], *([feature["nucleusGeometry"]] if kind == "cell" else [])]
    return {
        "type": feature.get("type") == "Feature" and kind in TYPES,
        "id": "id" not in feature or bool(UUID.fullmatch(feature["id"])),
        "geometry": all(map(_is_sound_shape, shapes)),
        "class": word is None or _is_sound_class(word),
        "name": isinstance(properties.get("name", ""), str),
        "measurements": all(
            _is_number(each) for each in properties.get("measurements", {}).values()
        ),
    }


def _is_sound_shape(geometry: dict[str, Any]) -> bool:
    """True for points, and for polygons that are valid; a multipolygon must have several parts."""
    if geometry["type"] == "MultiPolygon" and len(geometry["coordinates"]) < 2:
        return False
    shape = shapely.from_geojson(json.dumps(geometry))
    is_finite = np.isfinite(shapely.get_coordinates(shape)).all()
    return shape.is_valid and is_finite and ("Point" in shape.geom_type or shape.area > 0)


def _is_sound_class(word: dict[str, Any]) -> bool:
    names, color = word.get("names", [word.get("name")]), word.get("color", [0, 0, 0])
    is_color = len(color) == 3 and all(isinstance(each, int) and 0 <= each <= 255 for each in color)
    return (
        is_color and bool(names) and all(isinstance(each, str) and each.strip() for each in names)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
