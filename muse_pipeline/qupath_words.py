"""What QuPath calls the objects of a GeoJSON file: their type and their class, in each form that it has written."""

from __future__ import annotations

from typing import Any

OBJECT_TYPES = ("detection", "cell", "annotation", "tile", "tmaCore", "root")
_TYPE_KEYS = ("objectType", "object_type", "type")


def properties_of(feature: dict[str, Any]) -> dict[str, Any]:
    """The properties of a feature; none where they are no object."""
    properties = feature.get("properties")
    return properties if isinstance(properties, dict) else {}


def object_type_word(properties: dict[str, Any]) -> tuple[str | None, Any]:
    """The key that says what an object is, and what it says; None where none does."""
    return next(((key, properties[key]) for key in _TYPE_KEYS if properties.get(key) is not None), (None, None))


def read_object_type(properties: dict[str, Any]) -> str:
    """What the object becomes: one of ``OBJECT_TYPES``."""
    word = object_type_word(properties)[1]
    return word if word in OBJECT_TYPES else "annotation"


def read_class_name(classification: Any) -> str | None:
    """The name of a classification: a string, or an object with ``name`` or a list of ``names``."""
    if isinstance(classification, dict):
        names = classification.get("names")
        several = ": ".join(map(str, names)) if isinstance(names, list) else names
        classification = classification.get("name") or several
    return str(classification) if classification else None


def is_called(word: str, properties: dict[str, Any]) -> bool:
    """Whether an object's class or its own name is ``word``, with or without the ``*`` of QuPath's own classes."""
    names = read_class_name(properties.get("classification")), properties.get("name")
    return any(str(name).rstrip("*") == word for name in names if name is not None)
