"""Slides that OpenSlide opens: Aperio, Hamamatsu, Leica, MIRAX, Philips, Ventana, DICOM, pyramidal
TIFF and others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openslide
from numpy import ndarray
from PIL import Image

from muse_pipeline.core.errors import SlideError
from muse_pipeline.core.text import one_line
from muse_pipeline.core.types import Bounds
from muse_pipeline.slides.base import (
    READERS,
    NearlyReadError,
    SlideProperties,
    SlideReader,
    UnsuitedError,
    exact_downsamples,
)
from muse_pipeline.slides.direct_tiles import DirectTiles
from muse_pipeline.slides.mpp import (
    mpp_from_objective,
    mpp_from_ome_xml,
    mpp_from_resolution_tags,
    mpp_from_values,
)
from muse_pipeline.slides.signature import file_format
from muse_pipeline.slides.tiff_pictures import why_unsuited

# slides in one TIFF file with non-overlapping tiles
TILED_VENDORS = frozenset({"aperio", "generic-tiff"})
FOCAL_PLANES = re.compile(r"FocalPlanes value (\d+)")  # part of OpenSlide's error about DICOM


@READERS.register("openslide")
class OpenSlideReader(SlideReader):
    """A slide open in OpenSlide."""

    name = "openslide"
    priority = 1

    def __init__(self, path: Path):
        self.path = path
        self._handle: openslide.OpenSlide | None = self._open()
        # The metadata never change; they are read now, because any later error would disable the
        # handle.
        self.properties = _read_properties(self._handle)
        self._downsamples = self._handle.level_downsamples
        if self.properties.vendor == "generic-tiff" and len(self.properties.level_sizes_px) == 1:
            raise UnsuitedError(
                "OpenSlide finds only one level; others may be in the sub-directories of an"
                " OME-TIFF"
            )
        if self.properties.vendor in TILED_VENDORS and (
            wrong := why_unsuited(path, self.properties.level_sizes_px)
        ):
            raise UnsuitedError(f"OpenSlide mistakes {wrong}")
        # Levels without an integer downsample are left to OpenSlide, which interpolates (see
        # ``_paint``).
        whole = (level for level, downsample in enumerate(self._downsamples) if downsample % 1 == 0)
        sizes = {level: self.properties.level_sizes_px[level] for level in whole}
        self._direct_tiles = (
            DirectTiles(path, sizes) if self.properties.vendor in TILED_VENDORS else None
        )

    def _open(self) -> openslide.OpenSlide:
        try:
            return openslide.OpenSlide(self.path)
        except openslide.OpenSlideUnsupportedFormatError as error:
            raise UnsuitedError(f"OpenSlide: {error}") from error
        except openslide.OpenSlideError as error:
            if planes := FOCAL_PLANES.search(str(error)):
                raise SlideError(
                    f"{self.path}: has {planes[1]} focal planes; export one of them as a slide"
                ) from error
            vendor = openslide.OpenSlide.detect_format(self.path)
            if file_format(self.path) == "TIFF" and vendor not in TILED_VENDORS:
                # Other readers would take it for a plain TIFF, without the overlaps of its tiles
                # or the positions of its areas.
                raise SlideError(
                    f"{self.path}: is a {vendor} slide that OpenSlide cannot open"
                    f" ({one_line(error)}); copy it again, or export it as OME-TIFF with the"
                    " program of its scanner"
                ) from error
            raise NearlyReadError(f"OpenSlide: {one_line(error)}") from error

    def read_level(self, xy_px: tuple[int, int], level: int, size: tuple[int, int]) -> ndarray:
        """Read pixels; if OpenSlide's own downsample is not an integer, they are off by up to half
        a level-0 pixel.

        JPEG and JPEG 2000 tiles are decoded without OpenSlide if this gives the same pixels.
        """
        if (tiles := self._direct_tiles) and (
            pixels := tiles.read(xy_px, level, size, self._paint)
        ) is not None:
            return pixels
        return self._paint(xy_px, level, size)

    def _paint(self, xy_px: tuple[int, int], level: int, size: tuple[int, int]) -> ndarray:
        # OpenSlide divides by its mean downsample, and interpolates between pixels if the quotient
        # is not an integer.
        x, y = (round(at * self._downsamples[level]) for at in xy_px)
        try:
            return _read_rgb(self._handle, (x, y), level, size)
        except openslide.OpenSlideError:
            return self._read_alone((x, y), level, size)

    def _read_alone(self, xy_level0: tuple[int, int], level: int, size: tuple[int, int]) -> ndarray:
        """Try again on a new handle, because a handle that failed once fails forever, on all
        threads that share it.

        Thus, a corrupt tile does not affect other tiles. The old handle is closed when its last
        user releases it.
        """
        self._handle = self._open()
        try:
            with self._open() as handle:
                return _read_rgb(handle, xy_level0, level, size)
        except openslide.OpenSlideError as error:
            where = f"{self.path}: level {level} at {xy_level0}"
            raise SlideError(
                f"{where} cannot be read ({error}); copy the slide again from its source"
            ) from error

    def close(self) -> None:
        """Release the file, which is closed when the last thread has finished reading."""
        self._handle = self._direct_tiles = None


def _read_rgb(
    handle: openslide.OpenSlide, xy_level0: tuple[int, int], level: int, size: tuple[int, int]
) -> ndarray:
    pixels = handle.read_region(xy_level0, level, size)
    # opaque, as most regions are; blending is four times slower
    if pixels.getchannel("A").getextrema()[0] == 255:
        return np.array(pixels.convert("RGB"))
    white = Image.new("RGBA", size, (255, 255, 255, 255))
    return np.array(Image.alpha_composite(white, pixels).convert("RGB"))


def _read_properties(handle: openslide.OpenSlide) -> SlideProperties:
    values = dict(handle.properties)
    sizes = handle.level_dimensions
    return SlideProperties(
        vendor=values.get("openslide.vendor", "unknown"),
        level_sizes_px=sizes,
        level_downsamples=_read_downsamples(handle.level_downsamples, sizes),
        mpp_candidates=tuple(filter(None, _mpp_candidates(values))),
        bounds=_read_bounds(values),
    )


def _read_downsamples(
    reported: tuple[float, ...], sizes: tuple[tuple[int, int], ...]
) -> tuple[tuple[float, float], ...]:
    """The ratios of sizes, but the stated downsamples for levels padded to whole tiles, as in
    Philips slides.
    """
    (width, height), exact = sizes[0], exact_downsamples(sizes)
    from_sizes = [(width / w + height / h) / 2 for w, h in sizes]
    return tuple(
        own if abs(stated - computed) < 1e-6 * stated else (stated, stated)
        for own, stated, computed in zip(exact, reported, from_sizes, strict=True)
    )


def _mpp_candidates(values: Mapping[str, str]):
    # for generic TIFF, OpenSlide only repeats the tags
    if values.get("openslide.vendor") != "generic-tiff":
        yield mpp_from_values(
            values.get("openslide.mpp-x"), values.get("openslide.mpp-y"), "openslide.mpp-x"
        )
    description = values.get("tiff.ImageDescription", "")
    yield mpp_from_ome_xml(
        description, tuple(values.get(f"openslide.level[0].{side}") for side in ("width", "height"))
    )
    tags = (values.get(f"tiff.{name}") for name in ("XResolution", "YResolution", "ResolutionUnit"))
    yield mpp_from_resolution_tags(*tags, description)
    yield mpp_from_objective(values.get("openslide.objective-power"))


def _read_bounds(values: Mapping[str, str]) -> Bounds | None:
    try:
        return Bounds(
            *(int(values[f"openslide.bounds-{side}"]) for side in ("x", "y", "width", "height"))
        )
    except (KeyError, ValueError):
        return None
