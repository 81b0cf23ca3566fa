"""Images held in memory as one level: arrays, and plain pictures in PNG, JPEG, JPEG 2000, BMP, WebP
and TIFF.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy import ndarray
from PIL import Image

from muse_pipeline.core.errors import SlideError
from muse_pipeline.core.text import one_line
from muse_pipeline.slides.base import (
    READERS,
    OtherFormatError,
    SlideProperties,
    SlideReader,
    UnsuitedError,
    alpha_of,
    keep_upper,
    rgb_on_white,
    to_uint8,
)
from muse_pipeline.slides.mpp import MppCandidate
from muse_pipeline.slides.signature import PICTURE_SUFFIXES, TIFF_SUFFIXES, file_format
from muse_pipeline.slides.tiff_pictures import (
    count_planes,
    find_picture,
    is_mistagged,
    name_of,
    state_mpp,
    why_planes,
)

if TYPE_CHECKING:
    from tifffile import TiffPage

HEAD_BYTES = 4096  # beginning of a picture, which contains the number of bits per sample
MAX_PIXELS = 400_000_000  # decoding takes up to 7 bytes per pixel: under 3 GiB

# MAX_PIXELS is checked instead of Pillow's limit, with a clear message
Image.MAX_IMAGE_PIXELS = None


class ArrayReader(SlideReader):
    """An image (h, w, 3) uint8 RGB in memory, with the path of its file, or a name for messages.

    For ``candidates`` and ``warnings``, see ``SlideProperties``.
    """

    name = "array"

    def __init__(
        self,
        pixels: ndarray,
        path: Path,
        candidates: tuple[MppCandidate, ...] = (),
        warnings: tuple[str, ...] = (),
    ):
        self.path, self._pixels = path, pixels
        height, width = pixels.shape[:2]
        self.properties = SlideProperties(
            "unknown", ((width, height),), ((1.0, 1.0),), candidates, warnings=warnings
        )

    def read_inside(self, xy_px: tuple[int, int], level: int, size: tuple[int, int]) -> ndarray:
        """Read pixels of the only level, as described in ``SlideReader``."""
        (x, y), (width, height) = xy_px, size
        return self._pixels[y : y + height, x : x + width]

    def close(self) -> None:
        """Release the pixels."""
        self._pixels = self._pixels[:0]


@READERS.register("image")
class ImageReader(ArrayReader):
    """A plain picture."""

    name = "image"
    priority = 3

    def __init__(self, path: Path):
        kind = file_format(path)
        # A .mrxs file is a JPEG thumbnail of its slide, so only files with the suffix of a picture
        # are accepted.
        if (
            kind in {None, "DICOM", "CZI"}
            or path.suffix.lower() not in PICTURE_SUFFIXES | TIFF_SUFFIXES
        ):
            raise OtherFormatError("not a PNG, JPEG, JPEG 2000, BMP, WebP or TIFF picture")
        pixels, *stated = _read_tiff(path) if kind == "TIFF" else [_read_picture(path)]
        super().__init__(pixels, path, *stated)


def _read_picture(path: Path, frame: int = 0) -> ndarray:
    try:
        with Image.open(path) as picture:
            picture.seek(frame)
            _require_size(path, *picture.size)
            if (deep := _read_deep(path, picture.format)) is not None:
                return _rgb_of(deep, path)
            # Pillow converts these modes to RGB by clipping at 255, which would make 16-bit
            # pictures white.
            if picture.mode.startswith(("I", "F")):
                return _rgb_of(np.asarray(picture), path)
            mode = "RGBA" if picture.has_transparency_data else "RGB"
            return _rgb_of(np.asarray(picture.convert(mode)), path)
    except SlideError:
        raise
    except Exception as error:  # Pillow may raise any exception on damaged files
        raise SlideError(
            f"{path}: cannot be decoded ({error}); copy it again from its source"
        ) from error


def _rgb_of(pixels: ndarray, path: Path) -> ndarray:
    """(h, w, 3) uint8 RGB of pixels whose last sample, if there are 2 or 4, is opacity."""
    pixels = to_uint8(pixels, path)
    return rgb_on_white(pixels, alpha_of((), pixels))


def _read_deep(path: Path, kind: str | None) -> ndarray | None:
    """The pixels of a PNG or JPEG 2000 picture with more than 8 bits per sample, which Pillow would
    lose; else None.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if kind == "PNG" and head[24] == 16:
        stored = cv2.imdecode(
            np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
        )
        if stored is None or stored.ndim == 2:
            return stored
        return stored[..., [2, 1, 0, 3][: stored.shape[2]]]
    # The depth is in the marker SIZ, as the number of bits minus 1, after the sizes and the number
    # of components.
    if kind == "JPEG2000" and (at := head.find(b"\xff\x51")) > 0 and head[at + 40] & 127 > 7:
        import imagecodecs

        return imagecodecs.jpeg2k_decode(path.read_bytes())
    return None


def _read_tiff(path: Path) -> tuple[ndarray, tuple[MppCandidate, ...], tuple[str, ...]]:
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            index, warnings = find_picture(tiff)
            page = tiff.series[index].keyframe
            _require_size(path, page.imagewidth, page.imagelength)
            if count_planes(tiff.series[index]) > 1:
                raise why_planes(path, tiff.series[index])
            if is_mistagged(page):
                page.photometric = type(page.photometric).YCBCR
            return _tiff_pixels(page, path), tuple(filter(None, state_mpp(tiff, page))), warnings
    except SlideError:
        raise
    except Exception as error:  # tifffile and codecs may raise any exception on damaged files
        raise UnsuitedError(f"tifffile: {one_line(error)}") from error


def _tiff_pixels(page: TiffPage, path: Path) -> ndarray:
    kind = name_of(page.photometric)
    # by the codec, not by Pillow
    decoded_to_rgb = kind == "YCBCR" and "JP" in name_of(page.compression)
    if kind not in {"MINISBLACK", "MINISWHITE", "PALETTE", "RGB"} and not decoded_to_rgb:
        return _read_picture(path, page.index)
    pixels = page.asarray()
    if page.axes == "SYX":
        pixels = np.moveaxis(pixels, 0, -1)
    if kind == "PALETTE":
        return np.ascontiguousarray(np.moveaxis(page.colormap >> 8, 0, -1).astype(np.uint8)[pixels])
    bits = _stated_bits(page)
    if kind == "MINISWHITE":  # the brightest value is 0, whatever the number of bits
        pixels = 255 - (
            keep_upper(pixels, bits) if pixels.dtype == np.uint16 else to_uint8(pixels, path)
        )
    pixels = to_uint8(pixels, path, bits)
    return rgb_on_white(pixels, alpha_of(page.extrasamples, pixels))


def _stated_bits(page: TiffPage) -> int:
    """The number of bits per sample that a page or its OME-XML states to be used; 16 if it states
    none.
    """
    stated = re.findall(r'SignificantBits="(\d+)"', page.parent.ome_metadata or "")
    highest = page.tags.valueof("MaxSampleValue")
    used = max(np.atleast_1d(highest).tolist()).bit_length() if highest is not None else 16
    return min([16, page.bitspersample, used, *map(int, stated)])


def _require_size(path: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise SlideError(
            f"{path}: {width:,} x {height:,} pixels in one chunk are too many to hold in memory; "
            "convert it to a tiled, pyramidal TIFF of 8 bits first"
        )
