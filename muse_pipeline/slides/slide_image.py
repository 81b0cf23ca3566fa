"""An open slide or an image in memory with its header, for use from Python."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import numpy as np
from numpy import ndarray

from muse_pipeline.core.errors import ArgumentError, MppError, MuseWarning
from muse_pipeline.core.types import SlideInfo
from muse_pipeline.slides import base
from muse_pipeline.slides.image import ArrayReader
from muse_pipeline.slides.inspect import describe_slide
from muse_pipeline.slides.signature import fingerprint_file, slide_origin


class SlideImage:
    """An open slide, or an image in memory; a context manager that closes it.

    Attributes:
        info: size, um per pixel, levels, bounds from the scanner, and warnings.
    """

    def __init__(self, reader: base.SlideReader, info: SlideInfo):
        self.info = info
        self._reader = reader
        self._is_closed = False

    @classmethod
    def from_array(cls, pixels: ndarray, mpp: float, slide_id: str = "array") -> Self:
        """Make a slide from an image in memory, which is not copied.

        Args:
            pixels: (h, w, 3) uint8 RGB.
            mpp: um per pixel.
            slide_id: name in results.

        Raises:
            ArgumentError: ``pixels`` has a different type or shape.
            MppError: ``mpp`` is impossible.

        Warns:
            MuseWarning: the size of a pixel is implausible, or the image is black.
        """
        slide = cls(*_describe_array(_require_rgb(pixels), mpp, slide_id))
        warn_user(slide.info.slide_id, slide.info.warnings)
        return slide

    @property
    def path(self) -> Path:
        """Path of the slide; for an array, its name."""
        return self._reader.path

    def read_region(self, xy_level0: tuple[int, int], level: int, size: tuple[int, int]) -> ndarray:
        """Read ``size`` = (width, height) pixels of ``level`` with the corner at ``xy_level0``
        (absolute level-0 px).

        Returns:
            (h, w, 3) uint8 RGB; pixels outside the image, and transparent ones, are white.

        Raises:
            SlideError: the pixels cannot be decoded.
            HangingReadError: this read timed out, or an earlier one still hangs.
            ArgumentError: the slide is closed.
        """
        if self._is_closed:
            raise ArgumentError(f"slide '{self.info.slide_id}' is closed; open it again")
        return self._reader.read_region(xy_level0, level, size)

    def close(self) -> None:
        """Release the file."""
        self._is_closed = True
        self._reader.__exit__()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        width, height = self.info.size_px
        return (
            f"<SlideImage '{self.info.slide_id}', {width} x {height} px, {self.info.mpp[0]:.4g}"
            " um/px>"
        )


def open_slide(path: Path | str, mpp: float | None = None) -> SlideImage:
    """Open a slide, a plain image, or a folder written by `muse step fetch`.

    Args:
        path: path of the file.
        mpp: um per level-0 pixel; overrides the file.

    Raises:
        SlideError: the file cannot be opened.
        MppError: the pixel size is impossible, or is neither in the file nor given.

    Warns:
        MuseWarning: the size of a pixel is an estimate or implausible, or part of the file is
            damaged.
    """
    path = Path(path)
    origin = slide_origin(path)
    reader = base.open_slide(path)
    try:
        info = describe_slide(reader, path.stem, mpp, origin, fingerprint_file(reader.path))
    except BaseException:
        reader.__exit__()
        raise
    warn_user(info.slide_id, info.warnings)
    return SlideImage(reader, info)


def to_slide(image: SlideImage | ndarray, mpp: float | None) -> tuple[SlideImage, list[str]]:
    """Return an open slide, or an array (h, w, 3) uint8 RGB with its ``mpp``, as a slide.

    The other result are the warnings that its user has not received yet.
    """
    if isinstance(image, SlideImage):
        if mpp is not None:
            raise ArgumentError(
                "mpp is for arrays; give it to open_slide to override the slide's file"
            )
        return image, []
    if isinstance(image, str | Path):
        raise ArgumentError(f"'{image}' is a path; open it with open_slide first")
    pixels = _require_rgb(image)
    if mpp is None:
        raise MppError("the pixel size of an array is unknown; give mpp=, its um per pixel")
    slide = SlideImage(*_describe_array(pixels, mpp, "array"))
    return slide, list(slide.info.warnings)


def _describe_array(pixels: ndarray, mpp: float, slide_id: str) -> tuple[ArrayReader, SlideInfo]:
    reader = ArrayReader(pixels, Path(slide_id))
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels))
    return reader, describe_slide(reader, slide_id, mpp, slide_id, digest.hexdigest())


def _require_rgb(image: ndarray) -> ndarray:
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ArgumentError(
            f"the image is {pixels.dtype} of shape {pixels.shape}; give (height, width, 3) uint8"
            " RGB, 0 to 255"
        )
    return pixels


def warn_user(slide_id: str, messages: Iterable[str]) -> None:
    """Warn the caller of a public function about a slide."""
    for message in messages:
        warnings.warn(f"{slide_id}: {message}", MuseWarning, stacklevel=3)
