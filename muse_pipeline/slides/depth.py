"""Conversion of samples of 16 bits, of which cameras often use only 10, 12 or 14, to 8 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from muse_pipeline.core.errors import SlideError

DEPTHS = (8, 10, 12, 14, 16)  # numbers of bits that cameras use of 16
RARE = 1e-4  # share of pixels that may need more bits, such as hot pixels
BRIGHTEST = 98  # percentile of values that are bright in bright field, at least ``LEAST_BRIGHT`` in 8 bits
LEAST_BRIGHT = 100


def to_uint8(pixels: np.ndarray, path: Path, stated_bits: int = 16) -> np.ndarray:
    """Convert integers of 8 or 16 bits, or booleans, to 8 bits.

    Many cameras use only 10, 12 or 14 of 16 bits. Without a statement, the smallest of these depths that contains all
    values is assumed, since a picture in bright field is nearly white somewhere.
    """
    if pixels.dtype == bool:
        return pixels * np.uint8(255)
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.uint16 or (pixels.dtype == np.int32 and pixels.min() >= 0 and pixels.max() < 1 << 16):
        found = keep_upper(pixels, used_bits(pixels, stated_bits))
        if (bright := np.percentile(found[::7, ::7], BRIGHTEST)) < LEAST_BRIGHT:
            raise SlideError(
                f"{path}: its 16-bit pixels are dark ({BRIGHTEST} % are below {bright + 1:.0f} of 256), so the value "
                "of white is unknown; export it as 8-bit RGB with a white background"
            )
        return found
    raise SlideError(f"{path}: has {pixels.dtype} pixels, expected 8 or 16 bits; export it as 8-bit RGB")


def used_bits(pixels: np.ndarray, stated: int = 16) -> int:
    """The number of bits that pixels of 16 bits use: ``stated``, or fewer than 16 if hardly any value needs more."""
    most = pixels.size * RARE
    least = next(bits for bits in DEPTHS if bits == DEPTHS[-1] or np.count_nonzero(pixels >> bits) <= most)
    return max(stated, least) if stated < 16 else least


def keep_upper(pixels: np.ndarray, bits: int) -> np.ndarray:
    """The upper 8 of the ``bits`` that pixels use, as uint8; larger values become 255."""
    return (pixels >> bits - 8).clip(max=255).astype(np.uint8)
