"""The header of a slide: the content of ``slide.json``."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from itertools import chain
from pathlib import Path

from muse_pipeline.core.errors import MppError, SlideError
from muse_pipeline.core.files import read_json
from muse_pipeline.core.types import SlideInfo
from muse_pipeline.slides.base import READERS, SlideReader, open_slide
from muse_pipeline.slides.isolation import start_isolated
from muse_pipeline.slides.mpp import choose_mpp, is_square, require_possible
from muse_pipeline.slides.signature import fingerprint_file, slide_origin
from muse_pipeline.slides.tiff_pictures import MOSTLY, is_dim, share_of_dark

_PROBE_PX = 2048  # maximum side of the part of the coarsest level that is checked


def inspect_slide(
    path: Path | str, slide_id: str, mpp: float | None = None, source: str | None = None
) -> SlideInfo:
    """Open a slide, an image or a folder written by `muse step fetch`, and return its header.

    Args:
        path: path of the slide.
        slide_id: name of the slide in the sheet.
        mpp: size of a level-0 pixel in um; overrides the file.
        source: URL that the slide must have been fetched from, if given.
    """
    origin = slide_origin(Path(path))
    if source is not None and source != origin:
        raise SlideError(
            f"{path}: comes from {origin}, not from {source}; fetch the latter with `muse step"
            " fetch`"
        )
    with open_slide(path) as slide:
        return describe_slide(slide, slide_id, mpp, origin, fingerprint_file(slide.path))


def start_inspector(slides: Iterable[Path | str] = ()) -> None:
    """Load the readers, and fork the process that will inspect slides, if this process has no
    threads yet.

    Before the fork, this process loads what it will need itself for ``slides``, files or folders.
    """
    READERS.names()
    load_tiffslide(slides)
    start_isolated()


def load_tiffslide(slides: Iterable[Path | str]) -> None:
    """Load tiffslide, which takes 0.2 s, if it may be needed: for a file called .tif or .tiff."""
    files = chain.from_iterable((path, *path.glob("*")) for path in map(Path, slides))
    if any(file.suffix.lower() in {".tif", ".tiff"} for file in files):
        with suppress(ImportError):  # other readers may open the slide
            import tiffslide  # noqa: F401


def describe_slide(
    slide: SlideReader, slide_id: str, mpp: float | None, origin: str, fingerprint: str
) -> SlideInfo:
    """Return the header of an open slide; an ``mpp`` that is given overrides the file.

    The ``origin`` is the path or URL of the slide, and the ``fingerprint`` the checksum of its
    content.
    """
    properties = slide.properties
    try:
        chosen, source, doubts = choose_mpp(properties.mpp_candidates, mpp)
        require_possible(chosen, source, properties.level_sizes_px[0])
    except MppError as error:
        raise MppError(f"{origin}: {error}") from error
    return SlideInfo(
        slide_id=slide_id,
        path=origin,
        reader=slide.name,
        vendor=properties.vendor,
        size_px=properties.level_sizes_px[0],
        mpp=chosen,
        mpp_source=source,
        level_sizes_px=properties.level_sizes_px,
        level_downsamples=properties.level_downsamples,
        fingerprint=fingerprint,
        bounds=properties.bounds,
        warnings=(*doubts, *properties.warnings, *_check_coarsest(slide)),
    )


def info_text(info: SlideInfo) -> str:
    """A slide's properties as lines of text."""
    sides_mm = [n * side / 1000 for n, side in zip(info.size_px, info.mpp, strict=True)]
    mpp = f"{info.mpp[0]:.4g}" if is_square(info.mpp) else f"{info.mpp[0]:.4g} x {info.mpp[1]:.4g}"
    bounds = info.bounds
    facts = {
        "path": info.path,
        "format": f"{info.vendor}, read by {info.reader}",
        "size": f"{_size_text(info.size_px)} px, {sides_mm[0]:.3g} x {sides_mm[1]:.3g} mm",
        "mpp": f"{mpp} um per pixel ({info.mpp_source})",
        "levels": ", ".join(map(_size_text, info.level_sizes_px)),
        "bounds": (
            f"{_size_text((bounds.width, bounds.height))} px at {bounds.x}, {bounds.y}"
            if bounds
            else "none"
        ),
        "fingerprint": info.fingerprint,
    }
    lines = [info.slide_id, *(f"  {name:13}{fact}" for name, fact in facts.items())]
    return "\n".join([*lines, *(f"  {'warning':13}{warning}" for warning in info.warnings)])


def _size_text(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def require_unchanged(slide: SlideReader, info: SlideInfo) -> None:
    """Make sure that a slide's file is still the one described by ``info``."""
    if fingerprint_file(slide.path) != info.fingerprint:
        raise SlideError(
            f"{slide.path}: is not the file that `muse step inspect` read ({info.slide_id}); run it"
            " again"
        )


def read_info(path: Path | str) -> SlideInfo:
    """Read a ``slide.json``."""
    try:
        return SlideInfo.from_dict(read_json(path))
    except OSError as error:
        raise SlideError(
            f"{path}: cannot be read ({error.strerror}); give a slide's output folder, or write it"
            " with `muse step inspect`"
        ) from error
    except ValueError as error:
        raise SlideError(
            f"{path}: is not a slide.json of this version; write it with `muse step inspect`"
        ) from error


def _check_coarsest(slide: SlideReader) -> tuple[str, ...]:
    """A warning if the coarsest level cannot be read or is not bright field; empty if it is
    fine.
    """
    level = len(slide.properties.level_sizes_px) - 1
    width, height = slide.properties.level_sizes_px[level]
    size = min(width, _PROBE_PX), min(height, _PROBE_PX)
    corner = (width - size[0]) // 2, (height - size[1]) // 2
    try:
        pixels = slide.read_level(corner, level, size)
    except SlideError as error:
        return (f"level {level} has corrupt regions ({error.__cause__ or error})",)
    dark = share_of_dark(pixels)
    if dark > MOSTLY and is_dim(pixels):
        return (f"{dark:.0%} of the slide is black: this looks like fluorescence, not like H&E",)
    return ()
