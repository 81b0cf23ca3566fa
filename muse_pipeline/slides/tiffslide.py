"""Slides that tiffslide opens but OpenSlide does not: mainly OME-TIFFs, and other TIFFs stored in
tiles or strips.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray

from muse_pipeline.core.errors import SlideError
from muse_pipeline.core.text import one_line
from muse_pipeline.slides.base import (
    READERS,
    NearlyReadError,
    OtherFormatError,
    SlideProperties,
    SlideReader,
    alpha_of,
    exact_downsamples,
    rgb_on_white,
)
from muse_pipeline.slides.mpp import mpp_from_objective, mpp_from_values
from muse_pipeline.slides.signature import file_format
from muse_pipeline.slides.tiff_pictures import (
    VENDORS,
    are_colours,
    complaints_of_tifffile,
    count_planes,
    find_picture,
    is_mistagged,
    name_of,
    state_mpp,
    why_planes,
)

if TYPE_CHECKING:
    from tifffile import TiffPage
    from tiffslide import TiffSlide


# larger chunks are left to ``ImageReader``: each read here would decode a whole chunk
MAX_CHUNK_BYTES = 64 << 20
PROBE_PX = 1024


@READERS.register("tiffslide")
class TiffSlideReader(SlideReader):
    """A slide open in tiffslide."""

    name = "tiffslide"
    priority = 2

    def __init__(self, path: Path):
        self.path = path
        if file_format(path) != "TIFF":
            raise OtherFormatError("not a TIFF file")
        self._slide, doubts = _open(path)
        series = self._slide.ts_tifffile.series[
            self._slide.properties.get("tiffslide.series-index", 0)
        ]
        pages = [level.keyframe for level in series.levels]
        _require_rgb_in_chunks(pages[0], self._slide.properties["tiffslide.series-axes"])
        _require_whole(path, pages)
        for page in pages:
            page.nodata = 255  # tiles that were never written are background
            # tifffile decodes by this tag, which may wrongly declare luminance and chrominance as
            # RGB.
            if is_mistagged(page):
                page.photometric = type(page.photometric).YCBCR
        self.properties = _read_properties(self._slide, pages[0])
        if count_planes(series) > 1:
            if not are_colours(self._read_middle()):
                raise why_planes(path, series)
            doubts = *doubts, "its three planes are read as red, green and blue"
        self.properties = replace(self.properties, warnings=doubts)
        has_alpha = pages[0].samplesperpixel in {2, 4}
        self._alpha = alpha_of(pages[0].extrasamples, self._read_middle() if has_alpha else None)

    def _read_middle(self) -> ndarray:
        """(h, w, n) uint8 samples from the middle of the coarsest level."""
        level, (width, height) = max(enumerate(self.properties.level_sizes_px))
        size = min(width, PROBE_PX), min(height, PROBE_PX)
        return self._read_samples(((width - size[0]) // 2, (height - size[1]) // 2), level, size)

    def read_inside(self, xy_px: tuple[int, int], level: int, size: tuple[int, int]) -> ndarray:
        """Read pixels of a level, as described in ``SlideReader``."""
        return rgb_on_white(self._read_samples(xy_px, level, size), self._alpha)

    def _read_samples(self, xy_px: tuple[int, int], level: int, size: tuple[int, int]) -> ndarray:
        """(h, w, n) uint8 samples of a region within a level."""
        # tiffslide divides by its mean downsample and truncates; this is the smallest position that
        # yields the pixel.
        corner = tuple(ceil(at * self._slide.level_downsamples[level]) for at in xy_px)
        try:
            return self._slide.read_region(corner, level, size, as_array=True, padding=False)
        except (
            Exception
        ) as error:  # zarr, tifffile and codecs may raise any exception on damaged files
            where = f"{self.path}: level {level} at {corner}"
            raise SlideError(
                f"{where} cannot be read ({error}); copy the slide again from its source"
            ) from error

    def close(self) -> None:
        """Release the file."""
        self._slide.close()


def _open(path: Path) -> tuple[TiffSlide, tuple[str, ...]]:
    """Open the slide, choose its picture, and return the slide and warnings."""
    import tiffslide

    try:
        with warnings.catch_warnings(), complaints_of_tifffile() as complaints:
            warnings.simplefilter("ignore")
            slide = tiffslide.TiffSlide(path)
            tiff = slide.ts_tifffile
            index, doubts = find_picture(tiff)
            series = tiff.series[index]
            # A picture has one plane of grey or colours, or three planes that may be colours.
            if (n := count_planes(series)) != 1 and (
                n != 3 or series.axes[:-2] not in {"C", "I", "Q"}
            ):
                raise why_planes(path, series)
            # otherwise tiffslide opens the first picture
            if not any(getattr(tiff, f"is_{kind}") for kind in VENDORS):
                # Planes of colours are channels for tiffslide.
                properties = {
                    "series-index": index,
                    "series-axes": re.sub("^[^YX]YX$", "CYX", series.axes),
                }
                for number, level in enumerate(series.levels):
                    properties[f"level[{number}].width"] = level.keyframe.imagewidth
                    properties[f"level[{number}].height"] = level.keyframe.imagelength
                slide.properties = {
                    f"tiffslide.{name}": value for name, value in properties.items()
                }
            slide.properties  # noqa: B018 - parsed here, once, so that threads share it
    except SlideError:
        raise
    except Exception as error:  # tifffile may raise any exception on damaged files
        raise NearlyReadError(f"tiffslide: {one_line(error)}") from error
    if any("invalid page offset" in complaint for complaint in complaints):
        raise SlideError(
            f"{path}: is truncated (a part of its directory is missing); copy it again from its"
            " source"
        )
    return slide, doubts


def _require_rgb_in_chunks(page: TiffPage, axes: str) -> None:
    colours = name_of(page.photometric)
    # by the JPEG and JPEG 2000 codecs
    decoded_to_rgb = colours == "YCBCR" and "JP" in name_of(page.compression)
    understood = colours in {"MINISBLACK", "RGB"} or decoded_to_rgb
    if page.dtype != np.uint8 or axes not in {"YX", "YXS", "CYX"} or not understood:
        raise NearlyReadError(f"tiffslide: not 8-bit grey or RGB but {page.dtype} {colours} {axes}")
    if np.prod(page.chunks) > MAX_CHUNK_BYTES:
        raise NearlyReadError("tiffslide: stored as one chunk, not in tiles or strips")


def _require_whole(path: Path, pages: list[TiffPage]) -> None:
    if any(len(page.dataoffsets) != len(page.databytecounts) for page in pages):
        raise NearlyReadError(
            "tiffslide: its tags have different numbers of offsets and sizes of tiles"
        )
    expected = max(
        int(np.max(np.add(page.dataoffsets, page.databytecounts), initial=0)) for page in pages
    )
    if expected > (n_bytes := path.stat().st_size):
        raise SlideError(
            f"{path}: is truncated ({n_bytes:,} bytes of {expected:,} or more); copy it again from"
            " its source"
        )


def _read_properties(slide: TiffSlide, page: TiffPage) -> SlideProperties:
    values, tiff = slide.properties, slide.ts_tifffile
    vendor = values.get("tiffslide.vendor")
    sides = [values.get(f"tiffslide.mpp-{side}") for side in "xy"]
    candidates = (
        vendor and mpp_from_values(*sides, "tiffslide.mpp-x"),
        *state_mpp(tiff, page),
        mpp_from_objective(values.get("tiffslide.objective-power")),
    )
    return SlideProperties(
        vendor=vendor or ("ome-tiff" if tiff.ome_metadata else "generic-tiff"),
        level_sizes_px=slide.level_dimensions,
        level_downsamples=exact_downsamples(slide.level_dimensions),
        mpp_candidates=tuple(filter(None, candidates)),
    )
