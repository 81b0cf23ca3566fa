"""The numeric settings of a config, by dotted name, so that a test can change one at a time."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any, get_type_hints


def numeric_settings(config: Any, prefix: str = "") -> Iterator[str]:
    """Yield the names of numeric settings, switches included, in nested dataclasses; only in the first of a tuple."""
    hints = get_type_hints(type(config))  # types without their limits
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{prefix}{field.name}"
        if isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            yield from numeric_settings(value[0], f"{name}.0.")
        elif dataclasses.is_dataclass(value):
            yield from numeric_settings(value, f"{name}.")
        elif re.search(r"\b(int|float|bool)\b", str(hints[field.name])):
            yield name


def with_setting(config: Any, name: str, value: Any) -> Any:
    """The config with a different value for the setting ``name``, such as ``schedule.clip``."""
    first, _, rest = name.partition(".")
    earlier = config[int(first)] if isinstance(config, tuple) else getattr(config, first)
    changed = with_setting(earlier, rest, value) if rest else value
    if isinstance(config, tuple):
        return (*config[: int(first)], changed, *config[int(first) + 1 :])
    return dataclasses.replace(config, **{first: changed})
