"""Steps from a slide to its image: `tissue` and `tile`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from muse_pipeline.core.files import write_json
from muse_pipeline.core.process import return_large_arrays
from muse_pipeline.core.types import Written
from muse_pipeline.qupath.regions import describe_roi, read_annotations, read_roi, write_outline
from muse_pipeline.slides.base import open_slide
from muse_pipeline.slides.inspect import read_info, require_unchanged
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
        # without a ROI, this frees the overview before stains are measured in other pixels
        del search
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
