"""Whose slides are whose: what the bootstrap draws together."""

from __future__ import annotations

import re

from muse_pipeline.errors import ConfigError
from muse_pipeline.slides.patients import find_in_name


def find_patients(names: list[str], rows: dict[str, dict[str, str]], pattern: str | None) -> tuple[dict[str, str], str]:
    """The patient of each slide, and in words what that is: by expression, else by the sheet, else the slide itself.

    Raises:
        ConfigError: the expression is none, or finds nothing in a name.
    """
    if pattern is not None:
        return {
            name: match_patient(name, pattern) for name in names
        }, f"what --patient '{pattern}' finds in a slide's name"
    patients = {name: rows.get(name, {}).get("patient", "") for name in names}
    if not any(patients.values()):
        return {name: name for name in names}, "each slide its own, as no patients are known"
    nameless = sum(not patient for patient in patients.values())
    own = f", and {nameless} of {len(names)} slides, which it gives none, each its own" if nameless else ""
    return {name: patient or name for name, patient in patients.items()}, f"as the sheet says{own}"


def match_patient(name: str, pattern: str, option: str = "--patient") -> str:
    """What ``pattern``, given by ``option``, finds in a name: its first group if it has one.

    Raises:
        ConfigError: it is no regular expression, or finds nothing.
    """
    try:
        found = find_in_name(name, pattern)
    except re.error as error:
        raise ConfigError(f"{option} '{pattern}': is no regular expression ({error}); correct it") from error
    if found is None:
        raise ConfigError(f"{option} '{pattern}': finds nothing in '{name}'; change it so that it fits every name")
    return found
