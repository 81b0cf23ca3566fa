"""Pictures as PNG, written so that a full disk is noticed."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write (h, w, 3) uint8 RGB, or (h, w) uint8 or uint16.

    Raises:
        OSError: it cannot be written, of which ``cv2.imwrite`` says nothing.
    """
    pixels = np.ascontiguousarray(pixels[..., ::-1] if pixels.ndim == 3 else pixels)
    path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
