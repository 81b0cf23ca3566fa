"""Steps from a slide's file to its image: `fetch`, `inspect`, `tissue` and `tile`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from muse_pipeline.cohort.sheet import read_row
from muse_pipeline.core.errors import SlideError
from muse_pipeline.core.files import write_json
from muse_pipeline.core.process import return_large_arrays
from muse_pipeline.qupath.regions import describe_roi, read_annotations, read_roi, write_outline
from muse_pipeline.slides.base import open_slide
from muse_pipeline.slides.inspect import info_text, inspect_slide, read_info, require_unchanged
from muse_pipeline.slides.isolation import call_isolated
from muse_pipeline.slides.remote import SlideUrl, fetch_slide, is_url
from muse_pipeline.store.resample import warn_enlarged
from muse_pipeline.store.write import StoreOptions, write_store
from muse_pipeline.tissue.colour import measure_colour
from muse_pipeline.tissue.find import (
    FoundTissue,
    find_tissue,
    is_fluorescence,
    limit_tissue,
    measure_annotation,
)
from muse_pipeline.tissue.mask import TissueMask
from muse_pipeline.tissue.outline import read_thumbnail, trace_outline, write_picture

Written = Path  # a path that a step writes


def fetch(url: str, output: Written, slide_id: str | None = None) -> None:
    """Copy a slide from its URL to a folder, which later steps accept as the slide.

    Credentials in a URL (user:password@, a signed query) are neither written nor printed.

    Args:
        url: URL of the slide, or a sheet that contains it.
        output: folder for the copy.
        slide_id: slide of the sheet.
    """
    if not is_url(url):
        if slide_id is None:
            raise SlideError(f"{url}: is not a URL; give a URL, or a sheet and --slide-id")
        url = read_row(url, slide_id).path
        if not is_url(url):
            raise SlideError(
                f"{url}: is a local file, so there is nothing to fetch for '{slide_id}'"
            )
    url = url if isinstance(url, SlideUrl) else SlideUrl(url)
    n_bytes = fetch_slide(url, output)
    print(f"{url}: {n_bytes:,} bytes")


def inspect(
    slide: Path,
    slide_id: str | None = None,
    mpp: float | None = None,
    source: str | None = None,
    output: Written | None = None,
) -> None:
    """Show the properties of a slide: size, mpp and its source, levels, bounds, warnings.

    The slide is opened in a separate process, so that a file that crashes or hangs its reader is
    rejected here.

    Args:
        slide: a slide or a plain image, or a folder written by ``fetch``.
        slide_id: name in the cohort (default: the name of the file).
        mpp: um per level-0 pixel, instead of the file's.
        source: URL from which the slide must have been fetched.
        output: also write them to this file, slide.json, which later steps read.
    """
    info = call_isolated(inspect_slide, slide, slide_id or slide.stem, mpp, source)
    if output:
        write_json(output, info.to_dict())
    print(info_text(info))


# Tissue found in the whole file of the last slide with a ROI; the next slide is often another core
# in that file.
_last_with_roi: dict[tuple[str, tuple[float, float], str], FoundTissue] = {}


def tissue(
    slide: Path,
    info: Path,
    mask: Written,
    picture: Written,
    outline: Written,
    colour: Written,
    roi: Path | None = None,
    third_stain: bool = False,
) -> None:
    """Find the tissue of a slide, its outline for QuPath and its stains.

    A slide without tissue does not fail: its mask is empty, and a warning is printed.

    Args:
        slide: the slide, or a folder written by ``fetch``.
        info: slide.json of `muse step inspect`.
        mask: tissue.npz, read by later steps.
        picture: picture of the outline (PNG).
        outline: outline for QuPath (GeoJSON).
        colour: stain statistics (JSON).
        roi: analyse only these areas, drawn in QuPath (GeoJSON).
        third_stain: also find a stain other than haematoxylin and DAB.
    """
    return_large_arrays()
    header = read_info(info)
    area = read_roi(roi, header) if roi else None
    with open_slide(slide, header.reader) as opened:
        require_unchanged(opened, header)
        key = header.fingerprint, header.mpp, header.reader
        search = _last_with_roi.get(key) or find_tissue(opened, header)
        _last_with_roi.clear()
        if area is not None:
            _last_with_roi[key] = search
            search = limit_tissue(search, header, area)
        tissue_mask, warnings = search.tissue, search.warnings
        if area is not None:
            parts = [
                measure_annotation(part, tissue_mask, header)
                for part in read_annotations(roi, area, header)
            ]
            tissue_mask = replace(
                tissue_mask, roi_file=describe_roi(roi, area, header), annotations=tuple(parts)
            )
        dark_background = is_fluorescence(search.overview.pixels)
        traced = trace_outline(tissue_mask, header)
        thumbnail = read_thumbnail(tissue_mask.scanned(opened, header), header, search.overview)
        write_picture(picture, thumbnail, traced, tissue_mask.roi, header)
        del thumbnail
        del (
            search
        )  # without a ROI, this frees the overview before stains are measured in other pixels
        stains = measure_colour(opened, header, tissue_mask, dark_background, warnings, third_stain)
    write_outline(outline, traced, header)
    write_json(colour, stains.to_dict())
    tissue_mask.save(mask)


def tile(
    slide: Path,
    info: Path,
    tissue: Path,
    output: Written,
    mpp: float = 0.5,
    threads: int = 1,
    max_corrupt: float = 0.01,
    codec: str = "zstd",
) -> list[str]:
    """Write a slide's tissue as a sparse OME-Zarr image at one mpp, and return warnings.

    Glass is left out. Areas that cannot be decoded are white, and are listed in the store. The
    store appears under its name when it is complete.

    Args:
        slide: the slide, or a folder written by ``fetch``.
        info: slide.json of the slide.
        tissue: tissue.npz of the slide.
        output: store to write, such as image-500nm.zarr for 0.5 um/px.
        mpp: um per pixel of the image.
        threads: processor threads.
        max_corrupt: fraction of the tissue that may be undecodable.
        codec: zstd is lossless; jpeg is smaller, for pretraining only.
    """
    return_large_arrays()
    header = read_info(info)
    with open_slide(slide, header.reader) as opened:
        require_unchanged(opened, header)
        # The mask of a large slide is large, and write_store frees it early, so no variable here
        # may refer to it.
        write_store(
            opened,
            header,
            TissueMask.load(tissue, header),
            output,
            StoreOptions(mpp, max_corrupt, codec),
            threads,
        )
    return warn_enlarged(header, mpp)
