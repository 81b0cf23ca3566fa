"""Pictures in the page: embedded for a small cohort, beside it for a large one."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from muse_pipeline.report.html import Markup, element

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
