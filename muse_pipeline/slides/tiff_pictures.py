"""The choice of the slide among the pictures of a TIFF file (thumbnails, labels, planes), and
checks of its colours.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from threading import get_ident
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy import ndarray

from muse_pipeline.core.errors import SlideError
from muse_pipeline.slides.base import alpha_of
from muse_pipeline.slides.mpp import (
    PLAUSIBLE_RANGE_UM,
    MppCandidate,
    mpp_from_ome_xml,
    mpp_from_page,
)

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage, TiffPageSeries

# formats in which the first picture is the slide
VENDORS = ("svs", "scn", "bif", "ndpi", "philips")
# names of pictures that are not the slide
ASIDE = re.compile("label|macro|thumb|overview", re.IGNORECASE)
NOT_WHOLE = 1 | 4  # bits of NewSubfileType: a reduced picture, a mask
# factor on the area of tiled pictures, to prefer them; labels and thumbnails are rarely tiled
TILED = 4
SEVERAL = "pictures of similar size"  # part of a warning
SIMILAR = 3  # a picture smaller by at most this factor may be a slide too
MAX_PADDING = 0.05  # as a fraction of the side of a level
# upper grey level of dark pixels; share of them above which a picture is not bright field
DARK, MOSTLY = 40, 0.5
# median sum of the channels, in the pixels that are not dark, below which a dark picture is
# fluorescence
DIM = 300
# side of averaged blocks; minimum difference between channels in the most coloured 1 %
BLOCK_PX, COLOURED = 8, 20


def find_picture(tiff: TiffFile) -> tuple[int, tuple[str, ...]]:
    """Index of the series of ``tiff`` that is the slide, and warnings.

    A pyramid is preferred to a single level, and a large picture to a small one. Pictures named
    label or thumbnail, or with pixels too coarse for a slide, are chosen only if there is no other.
    """
    if any(getattr(tiff, f"is_{kind}") for kind in VENDORS):
        return 0, ()
    # three separate pages, perhaps colours
    if tiff.is_shaped and [series.axes for series in tiff.series] == ["YX"] * 3:
        tiff.is_shaped = False
        del tiff.series  # tifffile then builds one series, with the pages as its planes
    ranks = [_rank(series, tiff.ome_metadata) for series in tiff.series]
    best = max(range(len(ranks)), key=ranks.__getitem__)
    series = tiff.series[best]
    # tifffile mistakes any smaller picture of the same proportions for a level
    if series.keyframe.is_tiled:
        series.levels[:] = [
            level for level in series.levels if level.keyframe.is_tiled or level.keyframe.is_reduced
        ]
    n = sum(rank[:2] == ranks[best][:2] and SIMILAR * rank[-1] > ranks[best][-1] for rank in ranks)
    page = series.keyframe
    shown = f"{n} {SEVERAL}, and the one of {page.imagewidth} x {page.imagelength} px is read"
    return best, (f"the file has {shown}",) if n > 1 else ()


def _rank(series: TiffPageSeries, ome_xml: str | None) -> tuple[bool, bool, bool, int]:
    page = series.keyframe
    size = page.imagewidth, page.imagelength
    stated = mpp_from_ome_xml(ome_xml, size) or mpp_from_page(page)
    is_slide = not (page.subfiletype & NOT_WHOLE or ASIDE.search(series.name))
    is_fine = stated is None or max(stated.mpp) <= PLAUSIBLE_RANGE_UM[1]
    return is_slide, is_fine, len(series.levels) > 1, prod(size) * (TILED if page.is_tiled else 1)


def state_mpp(tiff: TiffFile, page: TiffPage) -> Iterator[MppCandidate | None]:
    """Yield the pixel sizes of ``page`` that the file states, the most trusted first; None for each
    that it lacks.
    """
    yield mpp_from_ome_xml(tiff.ome_metadata, (page.imagewidth, page.imagelength))
    yield mpp_from_page(page)


def count_planes(series: TiffPageSeries) -> int:
    """Number of planes in a picture (channels, depths, times or pages); 1 for RGB."""
    if series.kind == "svs":
        pages = [page.keyframe for page in series.keyframe.parent.pages]
        return max(sum(page.is_tiled and page.shape == series.keyframe.shape for page in pages), 1)
    return prod(n for axis, n in zip(series.axes, series.shape, strict=True) if axis not in "YXS")


def why_planes(path: Path, series: TiffPageSeries) -> SlideError:
    """The error to raise for a picture of several planes."""
    n = count_planes(series)
    if series.kind == "svs" or (series.axes.startswith("Z") and (n != 3 or "S" in series.axes)):
        return SlideError(f"{path}: has {n} focal planes; export one of them as a slide")
    kinds = (
        "depths, times or colours in planes"
        if n == 3 and "S" not in series.axes
        else "depths or times"
    )
    return SlideError(f"{path}: has {n} planes (channels, {kinds}); export one as an RGB image")


def share_of_dark(pixels: ndarray) -> float:
    """Fraction of (h, w, 3) uint8 pixels that are darker than any bright-field background."""
    return float(np.mean(pixels.max(-1) < DARK))


def is_dim(pixels: ndarray) -> bool:
    """True if what is not dark in (h, w, 3) uint8 pixels is dim too, unlike bright field with black
    around it.
    """
    lit = pixels[pixels.max(-1) >= DARK]
    return not len(lit) or float(np.median(lit.sum(-1, dtype=int))) < DIM


def are_colours(pixels: ndarray) -> bool:
    """True if three planes (h, w, 3) uint8 look like the colours of bright field: neither dark nor
    all alike.
    """
    if share_of_dark(pixels) > MOSTLY:
        return False
    size = tuple(max(side // BLOCK_PX, 1) for side in pixels.shape[1::-1])
    blocks = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return float(np.percentile(np.ptp(blocks, -1), 99)) >= COLOURED


def why_unsuited(path: Path, level_sizes_px: Sequence[tuple[int, int]]) -> str:
    """The mistake, such as "a label for a level", that OpenSlide makes if it finds these levels in
    a TIFF, or "".
    """
    import tifffile

    try:
        with complaints_of_tifffile(), tifffile.TiffFile(path) as tiff:
            series = tiff.series[find_picture(tiff)[0]]
            page, last = series.keyframe, series.levels[-1].keyframe
            is_rgba = page.samplesperpixel == 4
            reasons = {
                "a different picture for the slide": (page.imagewidth, page.imagelength)
                != level_sizes_px[0],
                "a label for a level": not all(
                    _is_alike(level_sizes_px[0], size) for size in level_sizes_px
                ),
                "one of several planes for the slide": count_planes(series) > 1,
                "luminance and chrominance for colours": is_mistagged(page),
                "a sample of unknown meaning for opacity": is_rgba and not page.extrasamples,
                # Blended with a constant opacity, the whole picture would be paler.
                "a constant sample for opacity": is_rgba
                and alpha_of(last.extrasamples, last.asarray()) == "none",
            }
            return next((reason for reason, holds in reasons.items() if holds), "")
    except Exception:  # tifffile raises anything on damaged files
        return ""


def _is_alike(size_px: tuple[int, int], other: tuple[int, int]) -> bool:
    """True if two pictures have the same proportions, up to rounding to pixels or padding."""
    # Rounding a side of the smaller picture by a pixel changes ``wide`` or ``high`` by a side of
    # the larger picture.
    wide, high = size_px[0] * other[1], size_px[1] * other[0]
    return abs(wide - high) <= max(MAX_PADDING * max(wide, high), 2 * sum(size_px))


def name_of(value: int) -> str:
    """Name of a tag's value, such as "RGB" or "JPEG"; its number if TIFF has no name for it."""
    return getattr(value, "name", str(value))


def is_mistagged(page: TiffPage) -> bool:
    """True if a page is tagged as RGB, but the header of its JPEG data declares luminance and
    chrominance.
    """
    if (
        name_of(page.photometric) != "RGB"
        or name_of(page.compression) != "JPEG"
        or page.samplesperpixel != 3
    ):
        return False
    offset, n_bytes = next(
        ((o, n) for o, n in zip(page.dataoffsets, page.databytecounts, strict=False) if n), (0, 0)
    )
    file = page.parent.filehandle
    file.seek(offset)
    return _is_ycbcr(file.read(min(n_bytes, 1 << 16)))


def _is_ycbcr(stream: bytes) -> bool:
    """True if a JPEG stream has JFIF's marker, Adobe's marker of converted colours, or subsampled
    chrominance.
    """
    at = 2
    while stream[at : at + 1] == b"\xff" and at + 4 < len(stream):
        kind = stream[at + 1]
        n_bytes = int.from_bytes(stream[at + 2 : at + 4], "big")
        content = stream[at + 4 : at + 2 + n_bytes]
        # APP0; APP14, whose last byte is the colour transform; and frame headers, with sampling
        # factors of components.
        if kind == 0xE0 and content.startswith(b"JFIF"):
            return True
        if kind == 0xEE and content.startswith(b"Adobe"):
            return content[11:12] == b"\x01"
        if kind in {0xC0, 0xC1, 0xC2}:
            return len({content[start : start + 1] for start in (7, 10, 13)}) > 1
        at += 2 + n_bytes
    return False


@contextmanager
def complaints_of_tifffile() -> Iterator[list[str]]:
    """Collect the messages that tifffile logs on this thread, instead of printing them."""
    complaints = []
    logger, thread = logging.getLogger("tifffile"), get_ident()

    def collect(record: logging.LogRecord) -> bool:
        if record.thread == thread:
            complaints.append(record.getMessage())
        return record.thread != thread

    logger.addFilter(collect)
    try:
        yield complaints
    finally:
        logger.removeFilter(collect)
