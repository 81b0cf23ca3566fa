"""Images held in memory as one level: arrays, and plain pictures in PNG, JPEG, JPEG 2000 and TIFF."""

from __future__ import annotations

from pathlib import Path

import numpy as np
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
    rgb_on_white,
)
from muse_pipeline.slides.mpp import MppCandidate
from muse_pipeline.slides.pictures import (
    count_planes,
    find_picture,
    is_mistagged,
    name_of,
    state_mpp,
    why_planes,
)
from muse_pipeline.slides.signature import PICTURE_SUFFIXES, TIFF_SUFFIXES, file_format

MAX_PIXELS = 400_000_000  # decoding takes up to 7 bytes per pixel: under 3 GiB

Image.MAX_IMAGE_PIXELS = None  # MAX_PIXELS is checked instead of Pillow's limit, with a clear message


class ArrayReader(SlideReader):
    """An image in memory.

    Args:
        pixels: (h, w, 3) uint8 RGB.
        path: path of the source file, or a name for messages.
        candidates: sizes of a pixel, as in ``SlideProperties``.
        warnings: warnings, as in ``SlideProperties``.
    """

    name = "array"

    def __init__(
        self,
        pixels: np.ndarray,
        path: Path,
        candidates: tuple[MppCandidate, ...] = (),
        warnings: tuple[str, ...] = (),
    ):
        self.path, self._pixels = path, pixels
        height, width = pixels.shape[:2]
        self.properties = SlideProperties("unknown", ((width, height),), ((1.0, 1.0),), candidates, warnings=warnings)

    def read_inside(self, xy_px: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
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
        # A .mrxs file is a JPEG thumbnail of its slide, so only files with the suffix of a picture are accepted.
        if kind in {None, "DICOM", "CZI"} or path.suffix.lower() not in PICTURE_SUFFIXES | TIFF_SUFFIXES:
            raise OtherFormatError("not a PNG, JPEG, JPEG 2000 or TIFF picture")
        pixels, *stated = _read_tiff(path) if kind == "TIFF" else [_read_picture(path)]
        super().__init__(pixels, path, *stated)


def _read_picture(path: Path, frame: int = 0) -> np.ndarray:
    try:
        with Image.open(path) as picture:
            picture.seek(frame)
            _require_size(path, *picture.size)
            # Pillow converts these modes to RGB by clipping at 255, which would make 16-bit pictures white.
            if picture.mode.startswith(("I", "F")):
                return rgb_on_white(_to_uint8(np.asarray(picture), path))
            mode = "RGBA" if picture.has_transparency_data else "RGB"
            return rgb_on_white(np.asarray(picture.convert(mode)))
    except SlideError:
        raise
    except Exception as error:  # Pillow may raise any exception on damaged files
        raise SlideError(f"{path}: cannot be decoded ({error}); copy it again from its source") from error


def _read_tiff(path: Path) -> tuple[np.ndarray, tuple[MppCandidate, ...], tuple[str, ...]]:
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


def _tiff_pixels(page, path: Path) -> np.ndarray:
    kind = name_of(page.photometric)
    decoded_to_rgb = kind == "YCBCR" and "JP" in name_of(page.compression)  # by the codec, not by Pillow
    if kind not in {"MINISBLACK", "MINISWHITE", "PALETTE", "RGB"} and not decoded_to_rgb:
        return _read_picture(path, page.index)
    pixels = page.asarray()
    if page.axes == "SYX":
        pixels = np.moveaxis(pixels, 0, -1)
    if kind == "PALETTE":
        return np.ascontiguousarray(np.moveaxis(_to_uint8(page.colormap, path), 0, -1)[pixels])
    pixels = _to_uint8(pixels, path)
    return rgb_on_white(255 - pixels if kind == "MINISWHITE" else pixels, alpha_of(page.extrasamples, pixels))


def _to_uint8(pixels: np.ndarray, path: Path) -> np.ndarray:
    """Convert integers of 8 or 16 bits, or booleans, to 8 bits.

    Raises:
        SlideError: the pixels have a different type, in which the value of white is unknown.
    """
    if pixels.dtype == bool:
        return pixels * np.uint8(255)
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.uint16 or (pixels.dtype == np.int32 and pixels.min() >= 0 and pixels.max() < 1 << 16):
        return (pixels >> 8).astype(np.uint8)
    raise SlideError(f"{path}: has {pixels.dtype} pixels, expected 8 or 16 bits; export it as 8-bit RGB")


def _require_size(path: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise SlideError(
            f"{path}: {width:,} x {height:,} pixels in one chunk are too many to hold in memory; "
            "convert it to a tiled, pyramidal TIFF first"
        )
