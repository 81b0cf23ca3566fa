"""HTML that is safe by construction: text becomes markup only by being escaped."""

from __future__ import annotations

import re
from html import escape


class Markup(str):
    """A piece of finished HTML; every other string is text."""

    __slots__ = ()


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """``<tag attributes>children</tag>``: text is escaped, ``Markup`` is kept, None is left out.

    ``class_`` stands for class and ``data_x`` for data-x; an attribute that is True stands alone, one that is None or
    False is left out.
    """
    text = "".join(
        child if isinstance(child, Markup) else _escape(str(child)) for child in children if child is not None
    )
    opening = f"<{tag}{''.join(_attribute(name, value) for name, value in attributes.items())}>"
    return Markup(opening if tag in _VOID else f"{opening}{text}</{tag}>")


def join(pieces: list[Markup], between: str = "") -> Markup:
    """Pieces one after the other."""
    return Markup(between.join(pieces))


_VOID = {"img", "br", "meta"}
# Control characters, marks that turn the direction of writing, halves of characters: names use them to mislead.
_TREACHEROUS = re.compile("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def _escape(text: str) -> str:
    return escape(_TREACHEROUS.sub("\N{REPLACEMENT CHARACTER}", text), quote=True)


def _attribute(name: str, value: object) -> str:
    if value is None or value is False:
        return ""
    key = name.rstrip("_").replace("_", "-")
    return f" {key}" if value is True else f' {key}="{_escape(str(value))}"'
