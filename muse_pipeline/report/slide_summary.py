"""Summary of one finished slide: ``summary.json``, ``density.png``, and the pictures in
``overlays``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import shapely

from muse_pipeline import __version__
from muse_pipeline.cohort.layout import SlideFiles
from muse_pipeline.core.coords import work_size_px, work_to_level0
from muse_pipeline.core.files import complete_file, find_json, sha256_of, write_json
from muse_pipeline.core.pictures import read_rgb
from muse_pipeline.core.process import map_in_order
from muse_pipeline.core.provenance import Provenance
from muse_pipeline.core.types import SlideInfo
from muse_pipeline.inference import stains
from muse_pipeline.inference.counts import (
    count_in_annotations,
    count_in_regions,
    count_intensities,
    median_features,
    stream_positions,
)
from muse_pipeline.inference.trust import find_in_files, judge
from muse_pipeline.nuclei.parquet import POSITIVE, footer_checksum, read_provenance
from muse_pipeline.qupath.regions import ClassArea, read_class_areas, read_cores
from muse_pipeline.report.album import THUMBNAIL_PX, as_jpeg
from muse_pipeline.report.density import DensityGrid, Field, choose_fields, count_nuclei
from muse_pipeline.report.overlays import draw_density, draw_field, field_size_px
from muse_pipeline.slides.inspect import read_info
from muse_pipeline.store.grid import WindowGrid
from muse_pipeline.store.store import Store, open_store
from muse_pipeline.tissue.find import measure_annotation
from muse_pipeline.tissue.mask import RoiAnnotation, RoiArea, TissueMask

FORMAT = 6  # format of a summary; summaries of other formats are made again
NO_PIXELS = {"fields": [], "has_pixels": False, "corrupt_level0": []}  # entries without the store


def summarise_slide(folder: Path, threads: int = 1) -> dict[str, Any]:
    """Write the summary of the finished slide in ``folder`` unless an up-to-date one exists, and
    return it. Its entry ``trust`` leaves the organ out of account, which the sheet may change.

    With several ``threads``, pictures are drawn at the same time, and so are nuclei counted.

    Overlays need the image store. If it was removed, those of an earlier summary of the same nuclei
    are kept, if there are any.
    """
    files = SlideFiles(folder)
    provenance = read_provenance(files.nuclei)
    store_path = files.store(provenance.model_mpp)
    made_from = {"nuclei": footer_checksum(files.nuclei), "version": __version__, "format": FORMAT}
    made_from |= {"tma": sha256_of(files.tma)} if files.tma.exists() else {}
    earlier = find_json(files.summary)
    if earlier:
        pictures = SlideFiles.density, *(field["picture"] for field in earlier["fields"])
        has_all = all((folder / picture).is_file() for picture in pictures)
        has_pixels = earlier["has_pixels"] or not store_path.exists()
        if has_all and has_pixels and earlier["made_from"] == made_from:
            return earlier
        if not has_all or earlier["made_from"]["nuclei"] != made_from["nuclei"]:
            earlier = None
    info, tissue = read_info(files.info), TissueMask.load(files.mask)
    has_artefacts = provenance.quality is not None
    artefacts = read_class_areas(files.artefacts, info, may_lack=True) if has_artefacts else []
    grid = _count_by_cell(files.nuclei, info, "label", len(provenance.classes))
    cv2.setNumThreads(1)
    backdrop = read_rgb(files.picture)
    draw_density(grid, tissue.mask, backdrop, files.density, artefacts, info.mpp)
    if store_path.exists():
        pixels = _draw_fields(open_store(store_path), files, info, provenance, grid, threads)
    else:
        pixels = {name: earlier[name] for name in NO_PIXELS} if earlier else NO_PIXELS
    summary = {
        "made_from": made_from,
        "trust": judge(provenance, None, find_in_files(files, provenance)).to_json(),
        "provenance": provenance.to_dict(),
        "n_nuclei": int(grid.counts.sum()),
        "classes": [
            {"name": kind.name, "color": list(kind.color), "n_nuclei": int(n)}
            for kind, n in zip(provenance.classes, grid.counts.sum((1, 2)), strict=False)
        ],
        "thumbnail": as_jpeg(backdrop, THUMBNAIL_PX),
        **_count(files, info, provenance, tissue, artefacts, threads),
        "full_windows_level0": _locate_windows(provenance, info),
        **pixels,
    }
    write_json(files.summary, summary)
    return summary


def _count_by_cell(nuclei: Path, info: SlideInfo, column: str, n_classes: int) -> DensityGrid:
    batches = stream_positions(nuclei, column, counted_only=True)
    return count_nuclei(batches, info.size_px, info.mpp, n_classes)


def _count(
    files: SlideFiles,
    info: SlideInfo,
    provenance: Provenance,
    tissue: TissueMask,
    artefacts: Sequence[ClassArea],
    threads: int,
) -> dict[str, Any]:
    """Numbers of the slide, its annotations and regions, several counted at the same time."""
    nuclei = files.nuclei
    classes = provenance.classes
    annotations = tissue.annotations
    cores = {}
    if files.tma.exists():
        areas, missing = read_cores(files.tma, info)
        annotations = *annotations, *(measure_annotation(area, tissue, info) for area in areas)
        cores = {"tma": {"n_cores": len(areas), "missing": missing}}
    if artefacts:
        kinds = provenance.quality.subtract
        areas = [area.shape for area in artefacts if area.class_name.lower() in kinds]
        left_out = shapely.union_all(areas)
        annotations = [_take_out(annotation, left_out, tissue, info) for annotation in annotations]
    ihc, regions = _count_positive(provenance), provenance.regions
    parts = {
        "intensities": lambda: ihc and count_intensities(nuclei, provenance, annotations),
        "annotations": lambda: count_in_annotations(nuclei, annotations, classes, bool(ihc)),
        "features": lambda: {
            name: float(f"{median:.5g}")
            for name, median in median_features(nuclei, provenance.class_names).items()
        },
    }
    if regions:
        parts["regions"] = lambda: count_in_regions(nuclei, regions, classes)
    counted = map_in_order(lambda part: part(), parts.values(), threads)
    return {"immunohistochemistry": ihc, **dict(zip(parts, counted, strict=True)), **cores}


def _take_out(
    annotation: RoiAnnotation, area: shapely.Geometry, tissue: TissueMask, info: SlideInfo
) -> RoiAnnotation:
    """The annotation without the tissue in an area (absolute level-0 px) that totals leave out."""
    shape = annotation.geometry & area
    part = RoiArea(annotation.name, annotation.class_name, shape, is_ignored=False)
    lost_mm2 = measure_annotation(part, tissue, info).tissue_mm2
    return replace(annotation, tissue_mm2=round(annotation.tissue_mm2 - lost_mm2, 6))


def _count_positive(provenance: Provenance) -> dict[str, Any] | None:
    """Counts of positive and negative nuclei in immunohistochemistry; None for other stains."""
    if provenance.positive_od is None:
        return None
    n, n_positive = provenance.n_nuclei, provenance.n_positive
    return {
        "positive_od": provenance.positive_od,
        "n_positive": n_positive,
        "n_negative": n - n_positive,
        "percent_positive": round(100 * n_positive / n, 2) if n else None,
    }


def _locate_windows(provenance: Provenance, info: SlideInfo) -> list[list[int]]:
    """(x, y, width, height) in level-0 px of the cores of windows that held more nuclei than the
    model can return.
    """
    mpp = provenance.model_mpp
    grid = WindowGrid(work_size_px(info.size_px, info.mpp, mpp), *provenance.window_px)
    corners = grid.core_xy(np.array(provenance.full_windows, int)).reshape(-1, 2)
    return _to_level0(np.hstack([corners, np.full_like(corners, grid.core_px)]), info.mpp, mpp)


def _to_level0(
    rectangles: Sequence | np.ndarray, slide_mpp: tuple[float, float], mpp: float
) -> list[list[int]]:
    """Convert (x, y, width, height) in work pixels to level-0 pixels."""
    corners_and_sizes = work_to_level0(np.reshape(rectangles, (-1, 2)), slide_mpp, mpp)
    return np.round(corners_and_sizes).astype(int).reshape(-1, 4).tolist()


def _draw_fields(
    store: Store,
    files: SlideFiles,
    info: SlideInfo,
    provenance: Provenance,
    grid: DensityGrid,
    threads: int,
) -> dict[str, Any]:
    """Draw the chosen fields as ``overlays/1.png`` ...; earlier overlays are replaced all at
    once.
    """
    column, classes = "label", provenance.classes
    if provenance.positive_od is not None:
        column, classes = POSITIVE, stains.CLASSES
        grid = _count_by_cell(files.nuclei, info, POSITIVE, len(classes))
    with complete_file(files.folder / "overlays") as partial:
        partial.mkdir()

        def draw(numbered: tuple[int, Field]) -> dict[str, Any]:
            number, field = numbered
            picture = partial / f"{number}.png"
            counts = draw_field(store, files.nuclei, field, classes, picture, column=column)
            xy_level0 = work_to_level0(field.xy_um, store.slide_mpp, 1.0)
            return {
                "picture": f"overlays/{picture.name}",
                "caption": field.caption,
                "xy_level0": np.round(xy_level0, 1).tolist(),
                "size_um": [round(side * store.mpp, 1) for side in field_size_px(store, field)],
                "n_nuclei": sum(counts.values()),
            }

        fields = list(map_in_order(draw, enumerate(choose_fields(grid), 1), threads))
    corrupt = _to_level0(store.attributes.get("corrupt", []), info.mpp, store.mpp)
    return {"fields": fields, "has_pixels": True, "corrupt_level0": corrupt}
