"""Definition of a run's setting, from which config, schema, documentation and command-line
option are generated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Setting:
    """A setting of a run.

    Its part of the JSON schema, its line in ``config/config.yaml``, its row in ``config/README.md``
    and its command-line option are generated from it.

    Attributes:
        name: name in a config; the option has hyphens in place of underscores.
        default: value if a config does not contain the setting.
        schema: JSON schema of the values.
        text: short description that starts in lower case.
        details: further sentences of the description, in Markdown.
        job: job of the workflow that reruns if the setting changes; "" if none depends on it
            directly.
        metavar: placeholder of the option's value.
        in_file_only: True if no command has an option for the setting.

    Example:
        >>> csv = Setting("csv", False, {"type": "boolean"}, "write `nuclei.csv.gz`, a table")
        >>> csv.option
        '--csv'
    """

    name: str
    default: Any
    schema: Mapping[str, Any]
    text: str
    details: str = ""
    job: str = ""
    metavar: str | None = None
    in_file_only: bool = False

    @property
    def types(self) -> list[str]:
        """JSON types of the values; empty if the schema states no type, as for a list of
        choices.
        """
        types = self.schema.get("type", [])
        return [types] if isinstance(types, str) else list(types)

    @property
    def option(self) -> str:
        """Command-line option, such as ``--features``, or ``--no-viewer`` for a flag that
        is on by default.
        """
        return f"--{'no-' if self.default is True else ''}{self.name.replace('_', '-')}"

    @property
    def parts(self) -> Mapping[str, Any]:
        """Schemas of the parts of a setting that may be a boolean or an object; each part has
        its own option.
        """
        return self.schema.get("properties", {}) if "boolean" in self.types else {}


def plain(text: str) -> str:
    """``text`` without backticks."""
    return text.replace("`", "")


def schema_of(settings: Iterable[Setting]) -> dict[str, Any]:
    """JSON schema of a config with these settings."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Settings of a run",
        "type": "object",
        "additionalProperties": False,
        "properties": {one.name: {**one.schema, "default": one.default} for one in settings},
    }
