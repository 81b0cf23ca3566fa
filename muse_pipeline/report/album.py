"""Pictures of the report, embedded or linked, and thumbnails for the rows of its table."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

# maximum number of slides with embedded pictures, 1 MB each; a larger page is slow to open
EMBEDDED_SLIDES = 30
THUMBNAIL_PX = 112  # shown at half this size, to be sharp on screens with two pixels per CSS pixel
_QUALITY = 78


UNREADABLE = OSError, ValueError, SyntaxError  # raised by Pillow for files that are not pictures


class Album:
    """Prepares pictures for the page at a path, embedded as JPEG or as links relative to the folder
    of the page.
    """

    def __init__(self, page: Path, embedded: bool):
        self.folder, self.embedded = page.parent, embedded

    def figure(self, file: Path, caption: str, longest_px: int) -> dict[str, Any] | None:
        """Describe a picture for ``templates/slide_card.html``; None if the file is not a picture.

        An embedded picture is reduced to at most ``longest_px`` in width and height.
        """
        try:
            with Image.open(file) as picture:
                width, height = picture.size
                source = (
                    _as_jpeg(picture.convert("RGB"), longest_px)
                    if self.embedded
                    else self.link(file)
                )
        except UNREADABLE:
            return None
        sizes = {"width": width, "height": height}
        return {
            "name": file.stem,
            "caption": caption,
            "source": source,
            "original": self.link(file),
            **sizes,
        }

    def link(self, file: Path) -> str:
        """The address of ``file`` relative to the page."""
        return quote(Path(os.path.relpath(file, self.folder)).as_posix())


def make_thumbnail(file: Path) -> str | None:
    """A small picture for a row of a table, as a data URL; None if the file is not a picture."""
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
