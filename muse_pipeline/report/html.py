"""HTML pages made from the files in ``templates``, with all text escaped."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.ext import Extension
from markupsafe import Markup

from muse_pipeline import __version__
from muse_pipeline.core import text
from muse_pipeline.core.files import complete_file

# sqrt(1.05 * 0.05) - 0.05, as the contrast of two luminances is (lighter + 0.05) / (darker + 0.05).
# relative luminance of a colour on which black and white are equally legible
EQUAL_CONTRAST = 0.179
_BUFFERED = 1000  # number of parts of a template that are written together
# Control characters, marks of writing direction and surrogates, which could disguise names.
_TREACHEROUS = re.compile("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def load_templates(*names: str) -> None:
    """Compile templates for later calls; several threads share them."""
    for name in names:
        _ENVIRONMENT.get_template(name)


def render(template: str, **data: Any) -> str:
    """The text of a template filled with ``data``."""
    return "".join(_stream(template, data))


def write_html(path: Path, **data: Any) -> None:
    """Write the report filled with ``data``, part by part; the items of iterators need not fit into
    memory.
    """
    with complete_file(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.writelines(_stream("report.html", data))


def _stream(template: str, data: dict[str, Any]) -> Iterator[str]:
    stream = _ENVIRONMENT.get_template(template).stream(data)
    stream.enable_buffering(_BUFFERED)
    return (_TREACHEROUS.sub("\N{REPLACEMENT CHARACTER}", part) for part in stream)


class _JoinLines(Extension):
    """Removes line breaks and indentation next to tags and expressions; those within text
    remain.
    """

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        return re.sub(r"(?<=[>}])\s*\n\s*|\s*\n\s*(?=[<{])", "", source)


def css_color(color: Sequence[int] | str) -> str:
    """A colour in CSS, such as ``rgb(1 2 3)``; strings are returned unchanged."""
    if isinstance(color, str):
        return color
    return f"rgb({' '.join(str(int(channel)) for channel in color)})"


def ink_on(color: Sequence[int]) -> str:
    """Black or white, whichever has the higher contrast on ``color`` by WCAG 2."""
    red, green, blue = (((channel / 255 + 0.055) / 1.055) ** 2.4 for channel in color)
    return "#000" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > EQUAL_CONTRAST else "#fff"


def density(n: int, mm2: float | None) -> str:
    """Nuclei per mm2; a dash if the area is None or 0."""
    return text.density_text(n / mm2 if mm2 else None)


def inline(name: str) -> Markup:
    """The text of a style sheet or script in this folder."""
    return Markup(files("muse_pipeline.report").joinpath(name).read_text(encoding="utf-8"))


def digest(code: str) -> str:
    """The SHA-256 of a script in base64, as in a content security policy."""
    return base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()


_ENVIRONMENT = Environment(
    loader=PackageLoader("muse_pipeline.report"),
    autoescape=True,
    undefined=StrictUndefined,
    extensions=[_JoinLines],
    auto_reload=False,
)
_FORMATS = (
    text.area_text,
    text.count_text,
    text.density_text,
    text.memory_text,
    text.percent_text,
    text.time_text,
)
_FILTERS = (*_FORMATS, text.count_noun, density, css_color, ink_on)
_ENVIRONMENT.filters |= {function.__name__: function for function in _FILTERS}
_ENVIRONMENT.globals |= {"version": __version__, "inline": inline, "digest": digest, "zip": zip}
