"""Pictures of the report, embedded or linked, and thumbnails for the rows of its table."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import simplejpeg
from PIL import Image

from muse_pipeline.core.pictures import read_rgb, resize_picture

# maximum number of slides with embedded pictures, 1 MB each; a larger page is slow to open
EMBEDDED_SLIDES = 30
THUMBNAIL_PX = 112  # shown at half this size, to be sharp on screens with two pixels per CSS pixel
_QUALITY = 78


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
            source = as_jpeg(read_rgb(file), longest_px) if self.embedded else self.link(file)
        except (OSError, ValueError, SyntaxError):  # raised for files that are not pictures
            return None
        return {
            "name": file.stem,
            "caption": caption,
            "source": source,
            "original": self.link(file),
            "width": width,
            "height": height,
        }

    def link(self, file: Path) -> str:
        """The address of ``file`` relative to the page."""
        return quote(Path(os.path.relpath(file, self.folder)).as_posix())


def as_jpeg(pixels: np.ndarray, longest_px: int) -> str:
    """A picture (h, w, 3) uint8, reduced to at most ``longest_px`` in width and height, as a data
    URL.
    """
    small = resize_picture(pixels, min(longest_px / max(pixels.shape), 1))
    encoded = simplejpeg.encode_jpeg(small, _QUALITY, colorsubsampling="420")
    return f"data:image/jpeg;base64,{base64.b64encode(encoded).decode()}"
