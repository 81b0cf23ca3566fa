"""List, read, write and resize pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy import ndarray

from muse_pipeline.core.errors import LabelError

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})


def list_pictures(folder: Path) -> list[Path]:
    """Pictures in a folder, sorted by name; empty if the folder does not exist."""
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in PICTURE_SUFFIXES)


def spread_evenly(n: int, n_chosen: int = 6) -> list[int]:
    """Indices of at most ``n_chosen`` of ``n`` pictures or tiles, spread evenly."""
    return np.unique(np.linspace(0, n - 1, min(n_chosen, n)).round().astype(int)).tolist()


def read_rgb(path: Path, remedy: str = "remove it or write it again") -> ndarray:
    """Read a plain picture as (h, w, 3) uint8 RGB; ``remedy`` is the advice of the error if it is
    damaged.
    """
    picture = _decode(path, cv2.IMREAD_COLOR)
    if picture is None:
        raise LabelError(f"{path}: not readable as a picture; {remedy}")
    return np.ascontiguousarray(picture[..., ::-1])


def read_grey(path: Path) -> ndarray | None:
    """Read a plain picture, such as a mask, as (h, w) uint8; None if the file is missing or
    damaged.
    """
    return _decode(path, cv2.IMREAD_GRAYSCALE)


def _decode(path: Path, kind: int) -> ndarray | None:
    """Read pixels as stored; ``cv2.imread`` would apply the EXIF rotation, and fail for many file
    names on Windows.
    """
    try:
        return cv2.imdecode(np.fromfile(path, np.uint8), kind | cv2.IMREAD_IGNORE_ORIENTATION)
    except (OSError, cv2.error):
        return None


def write_png(path: Path, pixels: ndarray) -> None:
    """Write pixels as PNG: (h, w, 3) uint8 RGB, or (h, w) uint8 or uint16."""
    pixels = np.ascontiguousarray(pixels[..., ::-1] if pixels.ndim == 3 else pixels)
    path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())


def resize_picture(pixels: ndarray, factor: float) -> ndarray:
    """Scale a picture (h, w, 3) by ``factor``; the same array is returned if ``factor`` is 1."""
    if abs(factor - 1) < 1e-6:
        return pixels
    size = [max(1, round(side * factor)) for side in pixels.shape[1::-1]]
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)


GUTTER_PX = 6


def draw_page(pictures: Sequence[ndarray], columns: int) -> ndarray:
    """Arrange pictures (h, w, 3) of the same size in rows on white; the last row may be shorter."""
    height, width = pictures[0].shape[:2]
    rows = -(-len(pictures) // columns)
    page = np.full(
        (rows * (height + GUTTER_PX) + GUTTER_PX, columns * (width + GUTTER_PX) + GUTTER_PX, 3),
        255,
        np.uint8,
    )
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        top = GUTTER_PX + row * (height + GUTTER_PX)
        left = GUTTER_PX + column * (width + GUTTER_PX)
        page[top : top + height, left : left + width] = picture
    return page
