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
from collections.abc import Iterator, Mapping
from inspect import getdoc
from typing import Any

from muse_pipeline.proposals import PROPOSERS
from muse_pipeline.training.recipe import RECIPES

METHODS = {
    "detector": "A detector trained on labels: [own-model.md](guide/own-model.md).",
    "muse": "MUSE pretraining: [pretraining.md](guide/pretraining.md).",
    "psm": "PSM, nuclei without labels: [label-free.md](guide/label-free.md).",
    "trident": "TriDeNT, pretraining with a partner: [trident.md](guide/trident.md).",
    "unit": "UNITPathSSL, translation between masks and tissue: [unit.md](guide/unit.md).",
    "mil": (
        "IKD-MIL, region models from labels of images or slides: [regions.md](guide/regions.md)."
    ),
}
# Classes whose settings are listed without descriptions.
INNER = {
    "ClusterSettings",
    "DiscriminatorSettings",
    "GeneratorSettings",
    "LossWeights",
    "TissueSettings",
}
HEAD = """# Reference

All settings of training runs and proposers, each with its default; those without one must be given.
The sheet and the settings of the workflow are in [config/README.md](../config/README.md), arguments
of a verb in `muse help VERB`.
`python docs/make_reference.py > docs/reference.md` writes this page.

## Settings of training runs

`muse train CONFIG` reads one of these, chosen by `method`."""
PROPOSERS_HEAD = """
## Settings of proposers

`proposals: {method: NAME, ...}` in the workflow's config, or `muse step propose --settings`:
[label-free.md](guide/label-free.md)."""


def print_reference() -> None:
    """Print the page."""
    print(HEAD)
    printed: dict[str, str] = {}
    documented: dict[type, str] = {}
    for method, what in METHODS.items():
        print(f"\n### method: {method}\n\n{what}")
        print_settings(RECIPES[method].Config, documented, printed, f"method: {method}")
    print(PROPOSERS_HEAD)
    for name in PROPOSERS.names():
        print(f"\n### proposer: {name}")
        print_settings(PROPOSERS[name].Settings, documented, printed, f"proposer: {name}")


def print_settings(
    kind: type, documented: dict[type, str], printed: dict[str, str], heading: str
) -> None:
    """Print the settings of a dataclass, and then those of its nested dataclasses that are not
    documented yet.

    Args:
        kind: Dataclass of settings.
        documented: Headings of the dataclasses that are documented; those printed are added.
        printed: Heading above each line that is printed; a line is printed once, and later only its
            setting is named.
        heading: Heading above the settings.
    """
    lines = list_lines(kind)
    parent = next((each for each in kind.__mro__[1:] if each in documented), None)
    documented[kind] = heading
    if parent:
        inherited = list_lines(parent)
        lines = {name: line for name, line in lines.items() if line != inherited.get(name)}
        print(
            "\nAll settings of"
            f" {link_to(documented[parent])}{', with these differences:' if lines else '.'}"
        )
    print_lines(lines, printed, heading)
    hints = typing.get_type_hints(kind).values()
    for each in (
        inner
        for hint in hints
        for found in find_dataclasses(hint)
        for inner in (found, *list_kinds(found))
    ):
        if each not in documented and each.__name__ in INNER:
            documented[each] = each.__name__
            names = ", ".join(f"`{describe_default(field)}`" for field in dataclasses.fields(each))
            print(
                f"\n#### {each.__name__}\n\n{names}. See `python -m pydoc"
                f" {each.__module__}.{each.__name__}`."
            )
        elif each not in documented:
            print(f"\n#### {each.__name__}\n\n{as_prose(getdoc(each).split('Attributes:')[0])}")
            print_settings(each, documented, printed, each.__name__)


def print_lines(lines: Mapping[str, str], printed: dict[str, str], heading: str) -> None:
    """Print lines by setting; those printed before are named with a link to their heading."""
    if new := [line for line in lines.values() if line not in printed]:
        print("\n".join(["", *new]))
    earlier: dict[str, list[str]] = {}
    for name, line in lines.items():
        if line in printed:
            earlier.setdefault(printed[line], []).append(f"`{name}`")
        printed.setdefault(line, heading)
    for above, names in earlier.items():
        print(f"\nAs in {link_to(above)}: {', '.join(names)}.")


def link_to(heading: str) -> str:
    """Link to a heading of the page."""
    return f"[{heading}](#{heading.lower().replace(':', '').replace(' ', '-')})"


def list_lines(kind: type) -> dict[str, str]:
    """Line for every setting of a dataclass, by its name."""
    texts, hints = read_attributes(kind), typing.get_type_hints(kind)
    lines, linked = {}, set()
    for field in dataclasses.fields(kind):
        if field.name == "method":
            continue
        classes = [each for each in find_dataclasses(hints[field.name]) if each not in linked]
        linked |= {*classes}
        links = "".join(f" [{each.__name__}](#{each.__name__.lower()})" for each in classes)
        lines[field.name] = f"- `{describe_default(field)}`: {as_prose(texts[field.name])}{links}"
    return lines


def read_attributes(kind: type) -> dict[str, str]:
    """Description of every field, from the docstrings of the class and of its parents."""
    texts: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        section = (
            re.search(r"^Attributes:\n(.*?)(?=^\S|\Z)", getdoc(each) or "", re.M | re.S)
            if each is not object
            else None
        )
        for name, text in re.findall(
            r"^    (\w+): (.*?)(?=^    \w+: |\Z)", section[1] if section else "", re.M | re.S
        ):
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
        name: (
            each.default if each.default_factory is dataclasses.MISSING else each.default_factory()
        )
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


def as_prose(text: str) -> str:
    """Text of a docstring on one line, with code in single backquotes."""
    return " ".join(text.split()).replace("``", "`")


if __name__ == "__main__":
    print_reference()
