"""List and read picture files, and write PNG with an error if the disk is full."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from muse_pipeline.core.errors import LabelError

PNG = {"format": "PNG", "compress_type": 3}  # Pillow with run lengths: twice as fast, smaller files
PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff"})


def list_pictures(folder: Path) -> list[Path]:
    """Pictures in a folder, sorted by name; empty if the folder does not exist."""
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in PICTURE_SUFFIXES)


def read_rgb(path: Path, remedy: str = "remove it or write it again") -> np.ndarray:
    """Read a plain picture as (h, w, 3) uint8 RGB.

    Args:
        path: picture file.
        remedy: advice about a damaged file, as the end of the message.

    Raises:
        LabelError: the file is missing or damaged.
    """
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise LabelError(f"{path}: not readable as a picture; {remedy}")
    return np.ascontiguousarray(picture[..., ::-1])


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write (h, w, 3) uint8 RGB, or (h, w) uint8 or uint16.

    Raises:
        OSError: the file cannot be written, which ``cv2.imwrite`` does not report.
    """
    pixels = np.ascontiguousarray(pixels[..., ::-1] if pixels.ndim == 3 else pixels)
    path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
