"""Pictures as files: which of a folder's they are, their pixels, and PNG written so that a full disk is noticed."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from muse_pipeline.core.errors import LabelError

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff"})


def list_pictures(folder: Path) -> list[Path]:
    """The pictures in a folder, by name; none where there is no such folder."""
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in PICTURE_SUFFIXES)


def read_rgb(path: Path, remedy: str = "remove it or write it again") -> np.ndarray:
    """(h, w, 3) uint8 of a plain picture.

    Args:
        path: of it.
        remedy: what to do where it is damaged, to end the sentence with.

    Raises:
        LabelError: it is missing or damaged.
    """
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise LabelError(f"{path}: not readable as a picture; {remedy}")
    return np.ascontiguousarray(picture[..., ::-1])


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write (h, w, 3) uint8 RGB, or (h, w) uint8 or uint16.

    Raises:
        OSError: it cannot be written, of which ``cv2.imwrite`` says nothing.
    """
    pixels = np.ascontiguousarray(pixels[..., ::-1] if pixels.ndim == 3 else pixels)
    path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
