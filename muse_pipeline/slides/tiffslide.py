"""Slides that tiffslide opens and OpenSlide does not: OME-TIFF above all, and TIFFs in tiles or strips."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from muse_pipeline.core.errors import SlideError
from muse_pipeline.core.text import one_line
from muse_pipeline.slides.base import (
    READERS,
    SlideProperties,
    SlideReader,
    UnsuitedError,
    alpha_of,
    exact_downsamples,
    overlap,
    rgb_on_white,
    white_canvas,
)
from muse_pipeline.slides.mpp import mpp_from_objective, mpp_from_ome_xml, mpp_from_resolution_tags, mpp_from_values
from muse_pipeline.slides.signature import file_format

if TYPE_CHECKING:
    from tifffile import TiffPage
    from tiffslide import TiffSlide


MAX_CHUNK_BYTES = 64 << 20  # every read decodes whole chunks: a file of one chunk is better held in memory


@READERS.register("tiffslide")
class TiffSlideReader(SlideReader):
    """A slide open in tiffslide."""

    name = "tiffslide"
    priority = 2

    def __init__(self, path: Path):
        self.path = path
        if file_format(path) != "TIFF":
            raise UnsuitedError("not a TIFF file")
        self._slide = _open(path)
        pages = _level_pages(self._slide)
        _require_rgb_in_chunks(pages[0], self._slide.properties["tiffslide.series-axes"])
        _require_whole(path, pages)
        self._alpha = alpha_of(pages[0].extrasamples)
        for page in pages:
            page.nodata = 255  # tiles that were never written are background
        self.properties = _read_properties(self._slide)

    def read_level(self, xy_px: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
        """See ``SlideReader``."""
        canvas = white_canvas(size)
        meeting = overlap(xy_px, size, self.properties.level_sizes_px[level])
        if meeting is None:
            return canvas
        (rows, columns), inside = meeting
        # tiffslide divides by its mean downsample and truncates: the smallest position that leads to this very pixel.
        downsample = self._slide.level_downsamples[level]
        corner = ceil(columns.start * downsample), ceil(rows.start * downsample)
        extent = columns.stop - columns.start, rows.stop - rows.start
        try:
            pixels = self._slide.read_region(corner, level, extent, as_array=True, padding=False)
        except Exception as error:  # zarr, tifffile and the codecs raise anything on damaged files
            where = f"{self.path}: level {level} at {corner}"
            raise SlideError(f"{where} cannot be read ({error}); copy the slide again from its source") from error
        canvas[inside] = rgb_on_white(pixels, self._alpha)
        return canvas

    def close(self) -> None:
        """Release the file."""
        self._slide.close()


def _open(path: Path) -> TiffSlide:
    import tiffslide

    try:
        with warnings.catch_warnings(), complaints_of_tifffile() as complaints:
            warnings.simplefilter("ignore")
            slide = tiffslide.TiffSlide(path)
            slide.properties  # noqa: B018 - parsed here, once, so that threads share it
    except Exception as error:  # tifffile raises anything on damaged files
        raise UnsuitedError(f"tiffslide: {one_line(error)}") from error
    if any("invalid page offset" in complaint for complaint in complaints):
        raise SlideError(f"{path}: is truncated (a part of its directory is missing); copy it again from its source")
    return slide


def _level_pages(slide: TiffSlide) -> list[TiffPage]:
    series = slide.ts_tifffile.series[slide.properties.get("tiffslide.series-index", 0)]
    return [level.keyframe for level in series.levels]


def _require_rgb_in_chunks(page: TiffPage, axes: str) -> None:
    colours = page.photometric.name
    decoded_to_rgb = colours == "YCBCR" and "JP" in page.compression.name  # JPEG and JPEG 2000: by the codec
    understood = colours in {"MINISBLACK", "RGB"} or decoded_to_rgb
    if page.dtype != np.uint8 or axes not in {"YX", "YXS"} or not understood:
        raise UnsuitedError(f"tiffslide: not 8-bit grey or RGB but {page.dtype} {colours} {axes}")
    if np.prod(page.chunks) > MAX_CHUNK_BYTES:
        raise UnsuitedError("tiffslide: stored as one chunk, not in tiles or strips")


def _require_whole(path: Path, pages: list[TiffPage]) -> None:
    if any(len(page.dataoffsets) != len(page.databytecounts) for page in pages):
        raise UnsuitedError("tiffslide: its tags have different numbers of offsets and sizes of tiles")
    expected = max(int(np.max(np.add(page.dataoffsets, page.databytecounts), initial=0)) for page in pages)
    if expected > (found := path.stat().st_size):
        raise SlideError(
            f"{path}: is truncated ({found:,} bytes of {expected:,} or more); copy it again from its source"
        )


def _read_properties(slide: TiffSlide) -> SlideProperties:
    values = slide.properties
    ome_xml = slide.ts_tifffile.ome_metadata
    vendor = values["tiffslide.vendor"]
    stated = vendor and mpp_from_values(values["tiffslide.mpp-x"], values["tiffslide.mpp-y"], "tiffslide.mpp-x")
    tags = (values.get(f"tiff.{name}") for name in ("XResolution", "YResolution", "ResolutionUnit"))
    candidates = (
        stated,
        mpp_from_ome_xml(ome_xml, slide.dimensions),
        mpp_from_resolution_tags(*tags),
        mpp_from_objective(values["tiffslide.objective-power"]),
    )
    return SlideProperties(
        vendor=vendor or ("ome-tiff" if ome_xml else "generic-tiff"),
        level_sizes_px=slide.level_dimensions,
        level_downsamples=exact_downsamples(slide.level_dimensions),
        mpp_candidates=tuple(filter(None, candidates)),
    )


@contextmanager
def complaints_of_tifffile() -> Iterator[list[str]]:
    """Collect them instead of printing them."""
    complaints: list[str] = []
    logger = logging.getLogger("tifffile")

    def collect(record: logging.LogRecord) -> bool:
        complaints.append(record.getMessage())
        return False

    logger.addFilter(collect)
    try:
        yield complaints
    finally:
        logger.removeFilter(collect)
