"""HTML that is safe by construction, the pictures in a page, and the document around its content."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
from html import escape
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from muse_pipeline import __version__


class Markup(str):
    """Finished HTML; every other string is text."""

    __slots__ = ()


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """``<tag attributes>children</tag>``: text is escaped, ``Markup`` is kept, None is left out.

    ``class_`` stands for class and ``data_x`` for data-x; an attribute that is True has no value, one that is None or
    False is left out.
    """
    text = "".join(
        child if isinstance(child, Markup) else _escape(str(child)) for child in children if child is not None
    )
    opening = f"<{tag}{''.join(_attribute(name, value) for name, value in attributes.items())}>"
    return Markup(opening if tag in _VOID else f"{opening}{text}</{tag}>")


def join(parts: list[Markup], between: str = "") -> Markup:
    """Concatenation of HTML."""
    return Markup(between.join(parts))


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


_CONTENT = Markup("<!-- content -->")


def frame_document(title: str, script: str | None = None) -> tuple[str, str]:
    """The document before and after a page's content.

    Args:
        title: title of the document.
        script: name of a file in this folder, the only script that the page's policy allows; None for no script.
    """
    code = _read(script) if script else None
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() if code else None
    allowed = f"; script-src 'sha256-{digest}'" if code else ""
    policy = f"default-src 'none'; img-src data: file: 'self'; style-src 'unsafe-inline'{allowed}"
    head = join(
        [
            element("meta", charset="utf-8"),
            element("meta", http_equiv="Content-Security-Policy", content=policy),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("title", title),
            element("style", Markup(_read("page.css"))),
        ]
    )
    footer = element("footer", f"muse-pipeline {__version__} · for research use")
    body = element("body", element("main", _CONTENT), footer, element("script", Markup(code)) if code else None)
    before, after = f'<!DOCTYPE html>\n<html lang="en">{element("head", head)}{body}</html>\n'.split(_CONTENT)
    return before, after


def _read(name: str) -> str:
    return files("muse_pipeline.report").joinpath(name).read_text(encoding="utf-8")


def css_word(verdict: str) -> str:
    """The style sheet's class of a verdict: yes, no or undecided."""
    return verdict if verdict in {"yes", "no"} else "undecided"


EMBEDDED_SLIDES = 30  # about 1 MB each: the page of a larger cohort would be a burden to mail and to open
THUMBNAIL_PX = 112  # shown at half the size, for screens of two pixels per point
_QUALITY = 78


UNREADABLE = OSError, ValueError, SyntaxError  # what Pillow raises on a file that is no picture


class Album:
    """Makes the ``<img>`` of pictures, linked to their files.

    Args:
        page: path of the page; links are relative to its folder.
        embedded: True to embed pictures in the page, as JPEG; False to refer to the files.
    """

    def __init__(self, page: Path, embedded: bool):
        self.folder, self.embedded = page.parent, embedded

    def figure(self, file: Path, caption: str, longest_px: int, anchor: str) -> Markup | None:
        """A picture with its caption, at most ``longest_px`` wide or high; None if the file is not a picture.

        When clicked, it fills the window: the style sheet does that for the figure in the address (``anchor``), whose
        other link leads back to its slide.
        """
        try:
            with Image.open(file) as picture:
                size = picture.size
                source = _as_jpeg(picture.convert("RGB"), longest_px) if self.embedded else self.link(file)
        except UNREADABLE:
            return None
        image = element("img", src=source, alt=caption, width=size[0], height=size[1], loading="lazy")
        name = f"{anchor}-{file.stem}"
        back = element("a", "Close", href=f"#{anchor}", class_="close")
        original = element("a", "PNG", href=self.link(file))
        text = element("figcaption", f"{caption} ", original)
        return element("figure", element("a", image, href=f"#{name}", class_="open"), back, text, id=name)

    def link(self, file: Path) -> str:
        """The address of ``file`` relative to the page."""
        return quote(Path(os.path.relpath(file, self.folder)).as_posix())


def make_thumbnail(file: Path) -> str | None:
    """A small picture for a row of a table, as a data address; None if the file is not a picture."""
    try:
        with Image.open(file) as picture:
            return _as_jpeg(picture.convert("RGB"), THUMBNAIL_PX)
    except UNREADABLE:
        return None


def _as_jpeg(picture: Image.Image, longest_px: int) -> str:
    picture.thumbnail((longest_px, longest_px), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
