"""Print docs/reference.md: every setting of a training run and a proposer.

    python docs/make_reference.py > docs/reference.md

The descriptions are the ``Attributes`` of the dataclasses of the settings.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import re
import typing
from collections import Counter
from collections.abc import Iterator, Mapping
from inspect import getdoc
from typing import Any

from muse_pipeline.core.config import Between
from muse_pipeline.proposals import PROPOSERS
from muse_pipeline.training.recipe import RECIPES

METHODS = {
    "detector": "A detector trained on labels: [own-model.md](guide/own-model.md).",
    "muse": "MUSE pretraining: [pretraining.md](guide/pretraining.md).",
    "psm": "PSM, nuclei without labels: [label-free.md](guide/label-free.md).",
    "trident": "TriDeNT, pretraining with a partner: [trident.md](guide/trident.md).",
    "unit": "UNITPathSSL, translation between masks and tissue: [unit.md](guide/unit.md).",
    "mil": "IKD-MIL, region models from labels of images or slides: [regions.md](guide/regions.md).",
}
TABLE = "| setting and default | what |\n|---|---|"
HEAD = """# Reference

Every setting of a training run and of a proposer. `python docs/make_reference.py > docs/reference.md` writes this page.
`muse help` lists the verbs, `muse help VERB` the arguments of each. The sheet and the settings of the workflow are in
[config/README.md](../config/README.md).
"""


def print_reference() -> None:
    """Print the page."""
    print(HEAD)
    print("## Settings of training runs\n")
    print("`muse train CONFIG` reads one of these, chosen by `method`. Settings without a default must be given.")
    configs = [RECIPES[method].Config for method in METHODS]
    counts = Counter(item for config in configs for item in list_rows(config).items())
    shared = dict(item for item, count in counts.most_common() if count > 2)
    print("\n### Settings of several methods\n")
    print("\n".join([TABLE, *shared.values()]))
    documented: dict[type, str] = {}
    for (method, what), config in zip(METHODS.items(), configs, strict=True):
        print(f"\n### method: {method}\n\n{what}")
        print_settings(config, documented, f"method: {method}", shared)
    print(
        "\n## Settings of proposers\n\n`proposals: {method: NAME, ...}` in the workflow's config, `--settings` of ",
        end="",
    )
    print("`muse propose`: [label-free.md](guide/label-free.md).")
    for name in PROPOSERS.names():
        print(f"\n### proposer: {name}")
        print_settings(PROPOSERS[name].Settings, documented, f"proposer: {name}")


def print_settings(kind: type, documented: dict[type, str], heading: str, shared: Mapping[str, str] = {}) -> None:
    """Print the table of a dataclass, and then the tables of its nested dataclasses that are not documented yet.

    Args:
        kind: Dataclass of settings.
        documented: Headings of the dataclasses that have a table; those printed are added.
        heading: Heading over the table.
        shared: Rows by setting of the table of several methods, which are named only.
    """
    rows = list_rows(kind)
    inherited = next(((each, list_rows(each)) for each in kind.__mro__[1:] if each in documented), None)
    documented[kind] = heading
    if inherited:
        parent, above = inherited
        anchor = documented[parent].lower().replace(":", "").replace(" ", "-")
        print(f"\nAll settings of [{documented[parent]}](#{anchor}), with these differences.")
        rows = {name: row for name, row in rows.items() if row != above.get(name)}
    if own := [row for name, row in rows.items() if row != shared.get(name)]:
        print("\n".join(["", TABLE, *own]))
    if names := [f"`{name}`" for name, row in rows.items() if row == shared.get(name)]:
        print(f"\n[As in other methods](#settings-of-several-methods): {', '.join(names)}.")
    hints = typing.get_type_hints(kind).values()
    for each in (inner for hint in hints for found in find_dataclasses(hint) for inner in (found, *list_kinds(found))):
        if each not in documented:
            print(f"\n#### {each.__name__}\n\n{as_cell(getdoc(each).split('Attributes:')[0])}")
            print_settings(each, documented, each.__name__, shared)


def list_rows(kind: type) -> dict[str, str]:
    """Row of the table for every setting of a dataclass, by its name."""
    texts, hints = read_attributes(kind), typing.get_type_hints(kind)
    limits = typing.get_type_hints(kind, include_extras=True)
    rows, linked = {}, set()
    for field in dataclasses.fields(kind):
        if field.name == "method":
            continue
        classes = [each for each in find_dataclasses(hints[field.name]) if each not in linked]
        linked |= {*classes}
        links = "".join(f" [{each.__name__}](#{each.__name__.lower()})" for each in classes)
        ranges = [f"{str(limit).capitalize()}." for limit in find_limits(limits[field.name]) if limit.most < 1e9]
        if texts[field.name].startswith(("fraction", "share", "probability")) or "0 to 1" in texts[field.name]:
            ranges = [each for each in ranges if each != "From 0 to 1."]
        text = " ".join([as_cell(texts[field.name]), *ranges])
        rows[field.name] = f"| `{describe_default(field)}` | {text}{links} |"
    return rows


def read_attributes(kind: type) -> dict[str, str]:
    """Description of every field, from the docstrings of the class and of its parents."""
    texts: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        section = (
            re.search(r"^Attributes:\n(.*?)(?=^\S|\Z)", getdoc(each) or "", re.M | re.S) if each is not object else None
        )
        for name, text in re.findall(r"^    (\w+): (.*?)(?=^    \w+: |\Z)", section[1] if section else "", re.M | re.S):
            texts[name] = " ".join(text.split())
    return texts


def find_dataclasses(hint: Any) -> Iterator[type]:
    """Dataclasses of this package in a type annotation."""
    if dataclasses.is_dataclass(hint):
        yield hint
    for each in typing.get_args(hint):
        yield from find_dataclasses(each)


def list_kinds(kind: type) -> Iterator[type]:
    """Subclasses of an abstract dataclass, one of which a config sets."""
    for each in kind.__subclasses__() if inspect.isabstract(kind) else ():
        yield each
        yield from list_kinds(each)


def find_limits(hint: Any) -> Iterator[Between]:
    """Limits of the numbers in a type annotation, each pair of limits once."""
    found = [one for one in getattr(hint, "__metadata__", ()) if isinstance(one, Between)]
    yield from found or dict.fromkeys(limit for each in typing.get_args(hint) for limit in find_limits(each))


def describe_default(field: dataclasses.Field) -> str:
    """A field with its default as YAML; only its name if a config must give it."""
    if field.default is field.default_factory is dataclasses.MISSING:
        return field.name
    value = field.default_factory() if field.default is dataclasses.MISSING else field.default
    return f"{field.name}: {as_yaml(value)}"


def list_changes(value: Any) -> dict[str, Any]:
    """Fields of nested settings that differ from their own defaults."""
    fields = {each.name: each for each in dataclasses.fields(value)}
    defaults = {
        name: each.default if each.default_factory is dataclasses.MISSING else each.default_factory()
        for name, each in fields.items()
    }
    return {name: each for name, each in vars(value).items() if each != defaults[name]}


def as_yaml(value: Any) -> str:
    """A value as one line of YAML."""
    if dataclasses.is_dataclass(value):
        return as_yaml(list_changes(value))
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {as_yaml(each)}' for name, each in value.items())}}}"
    if isinstance(value, tuple | list | frozenset):
        return f"[{', '.join(map(as_yaml, value))}]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return str(value) or '""'


def as_cell(text: str) -> str:
    """Prose as a cell of a table: on one line, with code in single backquotes."""
    return " ".join(text.split()).replace("``", "`").replace("|", "\\|")


if __name__ == "__main__":
    print_reference()
