"""What QuPath's parser makes of one feature, stated again from its source (PathIO, GsonTools, QuPathTypeAdapters).

Read at v0.4.4, v0.5.1, v0.6.0 and v0.7.0, and run against 0.5.1's importer. Positions are judged in ``geojson_check``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from muse_pipeline.nuclei.feature_stream import is_geometry
from muse_pipeline.qupath_words import OBJECT_TYPES, object_type_word, properties_of

VERSIONS = ("0.4", "0.5", "0.6", "0.7")
_UUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")


@dataclass(frozen=True)
class Fault:
    """Something that costs the user data.

    Attributes:
        reason: one clause, the same for all features that share it.
        refused_by: versions that refuse the whole file for it; none if the objects are only damaged.
    """

    reason: str
    refused_by: tuple[str, ...] = ()


def judge_feature(feature: Any) -> Iterator[Fault]:
    """Everything that is wrong with a feature apart from its positions and the uniqueness of its id."""
    if not isinstance(feature, dict):
        yield Fault("a feature is not an object", VERSIONS)
    elif is_geometry(feature):
        yield Fault("a geometry without a feature becomes an annotation")
    else:
        properties = properties_of(feature)
        yield from _judge_object_type(feature, properties)
        yield from _judge_id(feature)
        yield from _judge_classification(properties.get("classification"))
        yield from _judge_measurements(properties.get("measurements"))


def is_uuid(value: Any) -> bool:
    """Whether an id is one that QuPath keeps."""
    return isinstance(value, str) and _UUID.fullmatch(value) is not None


def _judge_object_type(feature: dict[str, Any], properties: dict[str, Any]) -> Iterator[Fault]:
    key, word = object_type_word(properties)
    state = "stands outside properties" if "objectType" in feature else "is missing"
    if key is None:
        yield Fault(f"becomes an annotation, as objectType {state}")
    elif key == "type":
        became = f"a {word}" if word in OBJECT_TYPES else "an annotation"
        yield Fault(f"becomes {became}, as objectType {state} and properties.type '{word}' is read in its place")
    elif word not in OBJECT_TYPES:
        yield Fault(f"becomes an annotation, as objectType '{word}' is unknown")
    elif word in {"tile", "tmaCore", "root"}:
        yield Fault(f"is a {word}, not a nucleus: objectType must be detection, cell or annotation")


def _judge_id(feature: dict[str, Any]) -> Iterator[Fault]:
    if "id" in feature and not is_uuid(feature["id"]):
        yield Fault("loses its id, which is not a UUID")


def _judge_classification(classification: Any) -> Iterator[Fault]:
    if classification is None or isinstance(classification, str):
        return
    if not isinstance(classification, dict):
        yield Fault("classification is neither a string nor an object", VERSIONS)
        return
    names = classification.get("names") or [classification.get("name")]
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        yield Fault("classification has no name", VERSIONS)
    if classification.get("color") is None:
        yield Fault("classification has no color", VERSIONS)
    elif not _is_color(classification["color"]):
        yield Fault("classification's color is not [r, g, b] of whole numbers from 0 to 255")


def _is_color(color: Any) -> bool:
    return (
        isinstance(color, list)
        and len(color) == 3
        and all(isinstance(part, int) and not isinstance(part, bool) and 0 <= part <= 255 for part in color)
    )


def _judge_measurements(measurements: Any) -> Iterator[Fault]:
    if measurements is None:
        return
    if isinstance(measurements, list):  # the form before 0.4, still read
        values = [entry.get("value") if isinstance(entry, dict) else None for entry in measurements]
    elif isinstance(measurements, dict):
        values = list(measurements.values())
    else:
        yield Fault("measurements are neither an object nor a list")
        return
    if not all(isinstance(value, int | float) for value in values):
        yield Fault("a measurement is not a number")
    elif not all(math.isfinite(value) for value in values):
        yield Fault("a measurement is NaN or infinite", ("0.4",))
