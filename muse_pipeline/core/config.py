"""Convert YAML settings to frozen dataclasses; an error about an unknown key suggests the nearest known one."""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Callable, Collection, Iterable
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar

from muse_pipeline.core.errors import ConfigError
from muse_pipeline.core.text import one_line

C = TypeVar("C")
_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")  # YAML 1.1 reads 1e-3, without a point, as text
WEIGHTS = "weights"
Weights = Annotated[Path, WEIGHTS]  # a checkpoint, relative to the config's folder, or a built-in model's name
WORDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    tuple: "a list",
    dict: "a mapping",
    Path: "a path",
}


def load_config(path: Path | str, kind: type[C], changes: Iterable[str] = ()) -> C:
    """Read ``path`` (YAML) into the frozen dataclass ``kind``.

    Args:
        path: YAML file.
        kind: dataclass of the settings.
        changes: ``key=value`` pairs that override the file; ``a.b`` is setting b of a, ``a.0`` the first item of a
            list.

    Raises:
        ConfigError: the file is missing or not YAML, a key is unknown or missing, a value has the wrong type.
    """
    return parse_config(read_settings(path, changes), kind, where=str(path))


def read_settings(path: Path | str, changes: Iterable[str] = ()) -> Any:
    """Content of a YAML file after ``changes`` as in ``load_config``; not validated.

    Raises:
        ConfigError: the file is missing or not YAML, or a change cannot be made.
    """
    try:
        values = parse_yaml(Path(path).read_bytes(), str(path))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the path of a YAML config") from error
    for change in changes if isinstance(values, dict) else ():  # `parse_config` rejects what is not a mapping
        _apply(change, values)
    return values


def parse_yaml(text: str | bytes, where: str) -> Any:
    """Parse YAML ``text``; an empty document is an empty mapping. ``where`` is the prefix of the error message.

    Raises:
        ConfigError: the text is not YAML.
    """
    import yaml

    try:
        # The same safe loader in C, if PyYAML has it: five times as fast, and a config may list 10,000 slides.
        return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where}: not readable as YAML ({one_line(error)}); correct it") from error


def _apply(change: str, values: Any) -> None:
    """Make one ``a.b=value`` in nested dictionaries and lists; unknown settings are found when they are parsed."""
    import yaml

    key, equals, text = change.partition("=")
    *outer, last = key.split(".")
    try:
        if not equals:
            raise ValueError("there is no '='")
        for name in outer:
            values = values[int(name)] if isinstance(values, list) else values.setdefault(name, {})
        value = yaml.safe_load(text)
        is_plain = isinstance(value, str) and text[:1] not in {"'", '"'}  # then a # begins no comment
        values[int(last) if isinstance(values, list) else last] = text if is_plain else value
    except IndexError as error:
        raise ConfigError(f"change '{change}': the list has no such entry; the first one is 0") from error
    except (ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"change '{change}': not usable ({one_line(error)}); write key=value, as in schedule.steps=100"
        ) from error


def parse_config(values: Any, kind: type[C], where: str) -> C:
    """Turn a nested dictionary into ``kind``; ``where`` is the prefix of error messages."""
    if not isinstance(values, dict):
        raise ConfigError(
            f"{where}: expected a mapping of settings, found {type(values).__name__}; write `name: value`"
        )
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in values:
        if key not in fields:
            near = get_close_matches(str(key), fields, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(fields)}"
            raise ConfigError(f"{where}: unknown setting '{key}'; {hint}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise ConfigError(f"{where}: setting '{name}' is missing; add it")
    try:
        return kind(**{key: _convert(value, hints[key], f"{where}: {key}") for key, value in values.items()})
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from error


def locate(settings: C, data: Path, weights: Callable[[Path], Path]) -> C:
    """Copy of a dataclass of settings, nested ones included, with absolute paths.

    Args:
        settings: parsed settings.
        data: folder that paths are relative to.
        weights: makes paths annotated as ``Weights`` absolute.
    """
    hints = typing.get_type_hints(type(settings), include_extras=True)

    def absolute(value: Any, hint: Any) -> Any:
        if isinstance(value, Path):
            return weights(value) if _is_weights(hint) else data / value
        if isinstance(value, tuple):
            return tuple(absolute(one, hint) for one in value)
        return locate(value, data, weights) if dataclasses.is_dataclass(value) else value

    names = [field.name for field in dataclasses.fields(settings)]
    return dataclasses.replace(settings, **{name: absolute(getattr(settings, name), hints[name]) for name in names})


def _is_weights(hint: Any) -> bool:
    return WEIGHTS in getattr(hint, "__metadata__", ()) or any(map(_is_weights, typing.get_args(hint)))


def require_between(settings: Any, where: str, **limits: tuple[float, float]) -> None:
    """Reject numbers outside their limits; settings that are None are skipped.

    Args:
        settings: dataclass.
        where: section of the settings, as prefix of the message; "" at the top.
        limits: (lowest, highest) value by setting; an infinite limit allows any finite number.

    Raises:
        ConfigError: a number is outside its limits or not a number.
    """
    for name, (least, most) in limits.items():
        if (value := getattr(settings, name)) is not None:
            require_number(value, name, where, least, most)


def require_number(value: float, name: str, where: str, least: float, most: float) -> None:
    """Reject a number called ``name`` outside its limits; see ``require_between``.

    Raises:
        ConfigError: the number is outside its limits or not a number.
    """
    if math.isfinite(value) and least <= value <= most:
        return
    end = f"{most:,}" if isinstance(most, int) else f"{most:g}"
    wanted = f"from {least:g} to {end}" if math.isfinite(most) else f"of {least:g} or more"
    kind = "whole number" if isinstance(value, int) else "number"
    raise ConfigError(f"{_section(where)}{name} is {value}; give a {kind} {wanted}")


def require_positive(settings: Any, where: str, *names: str) -> None:
    """Reject numbers that are not finite and above 0; see ``require_between``.

    Raises:
        ConfigError: a number is 0 or less, or not a number.
    """
    for name in names:
        value = getattr(settings, name)
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{_section(where)}{name} is {value}; give a number above 0")


def require_one_of(settings: Any, where: str, /, **choices: Collection[str]) -> None:
    """Reject unknown values of settings with fixed choices; settings that are None are skipped.

    Args:
        settings: object with the settings as attributes.
        where: section of the settings, as in ``require_between``.
        choices: allowed values by setting.

    Raises:
        ConfigError: a value is not among the choices.
    """
    for name, known in choices.items():
        value = getattr(settings, name)
        if value is not None and value not in known:
            *others, last = known
            raise ConfigError(f"{_section(where)}{name} '{value}' is unknown; choose {', '.join(others)} or {last}")


def _section(where: str) -> str:
    return f"{where}: " if where else ""


def _convert(value: Any, hint: Any, where: str) -> Any:  # noqa: PLR0911 - one line per kind of setting
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, UnionType):
        if value is None and type(None) in arguments:
            return None
        kinds = [a for a in arguments if a is not type(None)]
        return _convert(value, type(value) if type(value) in kinds else kinds[0], where)
    if dataclasses.is_dataclass(hint):
        return parse_config(value, hint, where)
    if origin is tuple and isinstance(value, (list, tuple)):
        inner = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(inner) != len(value):
            raise ConfigError(f"{where}: expected {len(inner)} values, found {len(value)}")
        return tuple(_convert(v, h, where) for v, h in zip(value, inner, strict=True))
    if origin is dict and isinstance(value, dict):
        return {_convert(k, arguments[0], where): _convert(v, arguments[1], where) for k, v in value.items()}
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str) and _EXPONENT.fullmatch(value):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    expected = WORDS.get(origin or hint, getattr(hint, "__name__", str(hint)))
    quoted = "; put it in quotes" if hint is str and isinstance(value, bool | int | float) else ""
    raise ConfigError(f"{where}: expected {expected}, found {value!r}{quoted}")
