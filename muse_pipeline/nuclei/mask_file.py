"""Masks from files: PNG, TIFF or NPY, one channel."""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np
from PIL import Image

from muse_pipeline.errors import LabelError
from muse_pipeline.wording import one_line

MAX_PIXELS = 2_000_000_000  # a slide of 45,000 px a side: 8 GB where numbers have 32 bits

Image.MAX_IMAGE_PIXELS = None  # Pillow's guard against bombs gives way to our own limit, which is a sentence


def read_label_image(path: Path) -> np.ndarray:
    """(h, w) whole numbers, none negative: 0 is background, any other number one nucleus.

    Raises:
        LabelError: the file cannot be read or holds something else.
    """
    mask = read_mask(path)
    if mask.dtype == bool:
        raise LabelError(f"{path}: has one bit a pixel, which tells no nuclei apart; give each nucleus its own number")
    if mask.min(initial=0) < 0:
        raise LabelError(f"{path}: has the number {mask.min()}; instances count from 1, and 0 is background")
    return mask


def read_mask(path: Path) -> np.ndarray:
    """(h, w) whole numbers or bool, 0 outside.

    Raises:
        LabelError: the file cannot be read, is too large, or has colours or fractions.
    """
    try:
        mask = _decode(path)
    except LabelError:
        raise
    except FileNotFoundError as error:
        raise LabelError(f"{path}: no such file; correct its path") from error
    except Exception as error:  # whatever the decoders raise on foreign bytes
        raise LabelError(f"{path}: not readable as a mask ({one_line(error)}); make it again") from error
    if mask.ndim != 2 or mask.dtype.kind not in "iub":
        raise LabelError(
            f"{path}: expected one channel of whole numbers, found {mask.dtype} of shape {mask.shape}; convert it"
        )
    return mask


def _decode(path: Path) -> np.ndarray:
    """What a file holds; of a picture once it is known to fit into memory."""
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return np.load(path, allow_pickle=False)
    if suffix in {".tif", ".tiff"}:
        import tifffile

        with tifffile.TiffFile(path) as tiff:
            _require_size(path, tiff.series[0].shape)
            mask = tiff.series[0].asarray()
            return mask[0] if mask.ndim == 3 and len(mask) == 1 else mask
    with Image.open(path) as picture:
        _require_size(path, picture.size[::-1])
        return np.asarray(picture)


def _require_size(path: Path, shape: tuple[int, ...]) -> None:
    if prod(shape) > MAX_PIXELS:
        raise LabelError(
            f"{path}: {' x '.join(f'{side:,}' for side in shape[::-1])} pixels are too many to hold in memory; give "
            "outlines as GeoJSON in its place"
        )
