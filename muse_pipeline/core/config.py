"""Convert YAML settings to frozen dataclasses; the error for an unknown key suggests the nearest
known key.
"""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar

from muse_pipeline.core.errors import ConfigError
from muse_pipeline.core.text import one_line, suggest

C = TypeVar("C")
# YAML 1.1 parses 1e-3, without a point, as text
_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


@dataclass(frozen=True)
class Between:
    """Limits of a number, as metadata of a setting's type: ``Annotated[float, Between(0, 1)]``.

    Attributes:
        least: minimum value.
        most: maximum value; infinity allows any finite number.
        is_open: True if values must be above ``least``.
    """

    least: float
    most: float = math.inf
    is_open: bool = False

    def require(self, value: float, where: str) -> None:
        """Check a number; ``where`` names the setting in the message."""
        is_above = value > self.least if self.is_open else value >= self.least
        if not (math.isfinite(value) and is_above and value <= self.most):
            kind = "whole number" if isinstance(value, int) else "number"
            raise ConfigError(f"{where} is {value}; give a {kind} {self}")

    def __str__(self) -> str:
        if math.isinf(self.most):
            return f"above {self.least:g}" if self.is_open else f"of {self.least:g} or more"
        return (
            f"from {self.least:g} to"
            f" {f'{self.most:,}' if isinstance(self.most, int) else f'{self.most:g}'}"
        )


@dataclass(frozen=True)
class ParsedBy:
    """Function that converts a value and the beginning of messages to a setting, as metadata of its
    type.
    """

    parse: Callable[[Any, str], Any]


@dataclass(frozen=True)
class OneOf:
    """Allowed values of a setting, as metadata of its type."""

    choices: tuple[str, ...]

    def require(self, value: str, where: str) -> None:
        """Check a value; ``where`` names the setting in the message."""
        if value not in self.choices:
            *others, last = self.choices
            raise ConfigError(f"{where} '{value}' is unknown; choose {', '.join(others)} or {last}")


Fraction = Annotated[float, Between(0, 1)]
NotNegative = Annotated[float, Between(0)]
Positive = Annotated[float, Between(0, is_open=True)]
Count = Annotated[int, Between(1)]
Mpp = Annotated[float, Between(0.01, 100)]
WEIGHTS = "weights"
# a checkpoint, relative to the config's folder, or a built-in model's name
Weights = Annotated[Path, WEIGHTS]
WORDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    tuple: "a list",
    dict: "a mapping",
    Path: "a path",
}


def read_settings(path: Path | str, changes: Iterable[str] = ()) -> dict[str, Any]:
    """Read a YAML file with a mapping and apply changes, without validation.

    Args:
        path: YAML file.
        changes: ``key=value`` pairs that override the file; ``a.b`` is setting b of a, ``a.0`` the
            first item of a list. ``stage=NAME`` chooses one of ``stages``, each of which has
            settings that differ from those of the file.
    """
    try:
        values = parse_yaml(Path(path).read_bytes(), str(path))
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); give the path of a YAML config"
        ) from error
    _require_mapping(values, path)
    changes = list(changes)
    if "stages" in values:
        values = _choose_stage(values, changes, path)
    for change in changes:
        _apply(change, values)
    return values


def _require_mapping(values: Any, where: Path | str) -> None:
    if not isinstance(values, dict):
        raise ConfigError(
            f"{where}: expected a mapping of settings, found {type(values).__name__}; write `name:"
            " value`"
        )


def _choose_stage(values: dict, changes: list[str], path: Path | str) -> dict:
    """Settings of the stage that the last change ``stage=NAME``, which is removed, names; without
    one, of the first stage.
    """
    stages = values.pop("stages")
    if not (
        isinstance(stages, dict)
        and stages
        and all(isinstance(one, dict) for one in stages.values())
    ):
        raise ConfigError(f"{path}: stages: expected settings for each name of a stage")
    named = [change.removeprefix("stage=") for change in changes if change.startswith("stage=")]
    changes[:] = [change for change in changes if not change.startswith("stage=")]
    name = named[-1].strip("\"'") if named else next(iter(stages))
    if name not in stages:
        raise ConfigError(f"{path}: stage '{name}' is unknown; choose one of {', '.join(stages)}")
    return values | stages[name]


def parse_yaml(text: str | bytes, where: str) -> Any:
    """Parse YAML ``text``; an empty document is an empty mapping.

    ``where`` is the prefix of the error message.
    """
    import yaml

    try:
        # The safe loader in C, if PyYAML has it, is five times as fast; a config may list 10,000
        # slides.
        return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{where}: not readable as YAML ({one_line(error)}); correct it"
        ) from error


def _apply(change: str, values: Any) -> None:
    """Apply a change ``a.b=value`` to nested dictionaries and lists; ``parse_config`` rejects
    unknown settings.
    """
    import yaml

    key, equals, text = change.partition("=")
    *outer, last = key.split(".")
    try:
        if not equals:
            raise ValueError("there is no '='")
        for name in outer:
            values = values[int(name)] if isinstance(values, list) else values.setdefault(name, {})
        value = yaml.safe_load(text)
        # text without quotes may contain a #
        is_plain = isinstance(value, str) and text[:1] not in {"'", '"'}
        values[int(last) if isinstance(values, list) else last] = text if is_plain else value
    except IndexError as error:
        raise ConfigError(
            f"change '{change}': the list has no such entry; the first one is 0"
        ) from error
    except (ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"change '{change}': not usable ({one_line(error)}); write key=value, such as"
            " schedule.steps=100"
        ) from error


@cache
def _read_hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def parse_config(values: Any, kind: type[C], where: str) -> C:
    """Convert a nested dictionary to the dataclass ``kind``; ``where`` is the prefix of error
    messages.
    """
    _require_mapping(values, where)
    hints = _read_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in values:
        if key not in fields:
            hint = suggest(str(key), fields, f"known: {', '.join(fields)}")
            raise ConfigError(f"{where}: unknown setting '{key}'; {hint}")
    for name, field in fields.items():
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if required and name not in values:
            raise ConfigError(f"{where}: setting '{name}' is missing; add it")
    try:
        return kind(
            **{key: _convert(value, hints[key], f"{where}: {key}") for key, value in values.items()}
        )
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from error


def replace_settings(settings: C, changes: Mapping[str, Any], where: str) -> C:
    """Copy a dataclass of settings, with some values replaced and converted to their types."""
    hints = _read_hints(type(settings))
    converted = {
        name: _convert(value, hints[name], f"{where}: {name}") for name, value in changes.items()
    }
    return dataclasses.replace(settings, **converted)


def require_one(settings: Any, names: Sequence[str], what: str) -> str:
    """Require that exactly one of some settings is given, and return its name; ``what`` is the
    subject of the message.
    """
    given = [name for name in names if getattr(settings, name) is not None]
    if len(given) != 1:
        named, found = (", ".join(f"`{name}`" for name in part) for part in (names, given))
        raise ConfigError(f"{what}: found {found or 'none'}; give exactly one of {named}")
    return given[0]


def locate(settings: C, data: Path, weights: Callable[[Path], Path]) -> C:
    """Copy a dataclass of settings, nested ones included, with absolute paths.

    Args:
        settings: parsed settings.
        data: folder to which paths are relative.
        weights: function that makes a path annotated as ``Weights`` absolute.
    """
    hints = _read_hints(type(settings))

    def absolute(value: Any, hint: Any) -> Any:
        if isinstance(value, Path):
            return weights(value) if _is_weights(hint) else data / value
        if isinstance(value, tuple):
            return tuple(absolute(one, hint) for one in value)
        return locate(value, data, weights) if dataclasses.is_dataclass(value) else value

    names = [field.name for field in dataclasses.fields(settings)]
    return dataclasses.replace(
        settings, **{name: absolute(getattr(settings, name), hints[name]) for name in names}
    )


def _is_weights(hint: Any) -> bool:
    return WEIGHTS in getattr(hint, "__metadata__", ()) or any(
        map(_is_weights, typing.get_args(hint))
    )


def _convert(value: Any, hint: Any, where: str) -> Any:
    if typing.get_origin(hint) is not Annotated:
        return _convert_type(value, hint, where)
    kind, *rules = typing.get_args(hint)
    if isinstance(rules[0], ParsedBy):
        return rules[0].parse(value, where)
    converted = _convert_type(value, kind, where)
    for rule in rules:
        if isinstance(rule, Between | OneOf):
            rule.require(converted, where)
    return converted


# One line per kind of setting.
def _convert_type(value: Any, hint: Any, where: str) -> Any:  # noqa: PLR0911
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, UnionType):
        if value is None and type(None) in arguments:
            return None
        kinds = [a for a in arguments if a is not type(None)]
        # YAML has lists where settings have tuples.
        kind = tuple if isinstance(value, list) else type(value)
        return _convert(
            value, next((k for k in kinds if (typing.get_origin(k) or k) is kind), kinds[0]), where
        )
    if dataclasses.is_dataclass(hint):
        return parse_config(value, hint, where)
    if origin is tuple and isinstance(value, (list, tuple)):
        inner = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(inner) != len(value):
            raise ConfigError(f"{where}: expected {len(inner)} values, found {len(value)}")
        return tuple(_convert(v, h, where) for v, h in zip(value, inner, strict=True))
    if origin is dict and isinstance(value, dict):
        return {
            _convert(k, arguments[0], where): _convert(v, arguments[1], f"{where}: {k}")
            for k, v in value.items()
        }
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str) and _EXPONENT.fullmatch(value):
        return float(value)
    if (
        isinstance(hint, type)
        and isinstance(value, hint)
        and not (hint is int and isinstance(value, bool))
    ):
        return value
    expected = WORDS.get(origin or hint, getattr(hint, "__name__", str(hint)))
    quoted = "; put it in quotes" if hint is str and isinstance(value, bool | int | float) else ""
    raise ConfigError(f"{where}: expected {expected}, found {value!r}{quoted}")
