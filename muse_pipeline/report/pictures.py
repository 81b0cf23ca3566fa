"""Pictures in the page: inside it for a small cohort, beside it for a large one."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from muse_pipeline.report.markup import Markup, element

EMBEDDED_SLIDES = 30  # about 0.9 MB per slide: a larger cohort would give a page that no browser likes
_QUALITY = 80


class Album:
    """Gives every picture its ``<img>``, linked to its file.

    Args:
        page: where the page will lie; links are relative to its folder.
        embedded: carry pictures inside the page, as JPEG, rather than refer to the files.
    """

    def __init__(self, page: Path, embedded: bool):
        self.folder, self.embedded = page.parent, embedded

    def figure(self, file: Path, caption: str, longest_px: int) -> Markup | None:
        """A picture with its caption, at most ``longest_px`` wide or high; None if the file is not a picture."""
        try:
            with Image.open(file) as picture:
                picture.load()
                source = _as_jpeg(picture.convert("RGB"), longest_px) if self.embedded else self.link(file)
                width, height = picture.size
        except (OSError, ValueError, SyntaxError):
            return None
        image = element("img", src=source, alt=caption, width=width, height=height, loading="lazy")
        return element("figure", element("a", image, href=self.link(file)), element("figcaption", caption))

    def link(self, file: Path) -> str:
        """The address of ``file`` relative to the page."""
        return quote(Path(os.path.relpath(file, self.folder)).as_posix())


def _as_jpeg(picture: Image.Image, longest_px: int) -> str:
    picture.thumbnail((longest_px, longest_px), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=_QUALITY, subsampling=0, optimize=True)  # outlines keep their colour
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
