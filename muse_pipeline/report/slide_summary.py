"""Summary of one finished slide: ``summary.json``, ``density.png``, and the pictures in
``overlays``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from muse_pipeline.core.process import map_in_order
from muse_pipeline.core.provenance import Provenance
from muse_pipeline.core.types import SlideInfo
from muse_pipeline.inference import stains
from muse_pipeline.inference.trust import judge_files
from muse_pipeline.nuclei.parquet import POSITIVE, footer_checksum, read_provenance
from muse_pipeline.qupath.regions import read_class_areas, read_cores
from muse_pipeline.report.album import make_thumbnail
from muse_pipeline.report.counts import count_in_annotations, count_in_regions, count_intensities
from muse_pipeline.report.density import (
    DensityGrid,
    Field,
    choose_fields,
    count_nuclei,
    median_features,
    stream_positions,
)
from muse_pipeline.report.overlays import LONG_SIDE_PX, draw_density, draw_field, field_size_px
from muse_pipeline.slides.inspect import read_info
from muse_pipeline.store.grid import WindowGrid
from muse_pipeline.store.store import CHUNK_PX, PYRAMID, Store, open_store
from muse_pipeline.tissue.find import measure_annotation
from muse_pipeline.tissue.mask import RoiAnnotation, RoiArea, TissueMask

FORMAT = 6  # format of a summary; summaries of other formats are made again
OF_PIXELS = ("fields", "has_pixels", "corrupt_level0")  # entries of a summary that need the store


def summarise_slide(folder: Path, threads: int = 1) -> dict[str, Any]:
    """Write the summary of the finished slide in ``folder`` unless an up-to-date one exists, and
    return it. Its entry ``trust`` leaves the organ out of account, which the sheet may change.

    With several ``threads``, pictures are drawn at the same time, and so are nuclei counted.

    Pixels come from the image store. If it was removed, pictures of an earlier summary of the same
    nuclei are kept; if there is no such summary, the density is drawn on the tissue mask and there
    are no overlays.
    """
    files = SlideFiles(folder)
    nuclei = files.nuclei
    provenance = read_provenance(nuclei)
    store_path = files.store(provenance.model_mpp)
    made_from = {"nuclei": footer_checksum(nuclei), "version": __version__, "format": FORMAT}
    info = read_info(files.info)
    if files.tma.exists():
        made_from["tma"] = sha256_of(files.tma)
    earlier = find_json(files.summary)
    pictures = (
        [SlideFiles.density, *(field["picture"] for field in earlier["fields"])] if earlier else []
    )
    if not all((folder / picture).is_file() for picture in pictures):
        earlier = None
    if (
        earlier
        and earlier["made_from"] == made_from
        and (earlier["has_pixels"] or not store_path.exists())
    ):
        return earlier
    store = open_store(store_path) if store_path.exists() else None
    of_same_nuclei = earlier and earlier["made_from"]["nuclei"] == made_from["nuclei"]
    kept = earlier if of_same_nuclei and earlier["has_pixels"] and store is None else None
    parts = _describe(folder, info, provenance, store, kept, threads)
    summary = {"made_from": made_from, "trust": judge_files(files, None).to_json(), **parts}
    write_json(files.summary, summary)
    return summary


def _describe(
    folder: Path,
    info: SlideInfo,
    provenance: Provenance,
    store: Store | None,
    earlier: dict[str, Any] | None,
    threads: int,
) -> dict[str, Any]:
    """The summary; results that need pixels are copied from an ``earlier`` summary if the store was
    removed.
    """
    cv2.setNumThreads(1)
    classes = provenance.classes
    files = SlideFiles(folder)
    nuclei, tissue = files.nuclei, TissueMask.load(files.mask)
    grid = count_nuclei(
        stream_positions(nuclei, "label", counted_only=True), info.size_px, info.mpp, len(classes)
    )
    counts, ihc = grid.counts.sum((1, 2)), _count_positive(provenance)
    annotations, missing = tissue.annotations, None
    if files.tma.exists():
        cores, missing = read_cores(files.tma, info)
        annotations = (*annotations, *(measure_annotation(core, tissue, info) for core in cores))
    artefacts = read_class_areas(files.artefacts, info, may_lack=True) if provenance.quality else []
    if artefacts and annotations:
        kinds = provenance.quality.subtract
        left_out = shapely.union_all(
            [area.shape for area in artefacts if area.class_name.lower() in kinds]
        )
        annotations = [_take_out(annotation, left_out, tissue, info) for annotation in annotations]

    def draw_map() -> None:
        if not earlier:
            backdrop = (
                _read_backdrop(store)
                if store
                else [np.where(tissue.mask, np.uint8(215), np.uint8(255))] * 3
            )
            draw_density(grid, tissue.mask, backdrop, files.density, artefacts, info.mpp)

    fields = _draw_fields(folder, store, info, provenance, grid, threads) if store else []
    parts = {
        "density": draw_map,
        "intensities": lambda: ihc and count_intensities(nuclei, provenance, annotations),
        "annotations": lambda: count_in_annotations(
            nuclei, annotations, classes, with_positive=ihc is not None
        ),
        "regions": lambda: (
            provenance.regions and count_in_regions(nuclei, provenance.regions, classes)
        ),
        "features": lambda: median_features(nuclei, provenance.class_names),
        "thumbnail": lambda: make_thumbnail(files.picture),
    }
    entries = dict(
        zip(parts, map_in_order(lambda part: part(), parts.values(), threads), strict=True)
    )
    return {
        "n_nuclei": int(counts.sum()),
        "classes": [
            {"name": kind.name, "color": list(kind.color), "n_nuclei": int(n)}
            for kind, n in zip(classes, counts, strict=False)
        ],
        "immunohistochemistry": ihc,
        **{
            name: value
            for name, value in entries.items()
            if name not in {"density", "regions"} or value
        },
        **({} if missing is None else {"tma": {"n_cores": len(cores), "missing": missing}}),
        "fields": fields,
        "has_pixels": store is not None,
        "full_windows_level0": _locate_windows(provenance, info),
        "corrupt_level0": (
            _to_level0(store.attributes.get("corrupt", []), info.mpp, store.mpp) if store else []
        ),
        "provenance": provenance.to_dict(),
        **({name: earlier[name] for name in OF_PIXELS} if earlier else {}),
    }


def _take_out(
    annotation: RoiAnnotation, area: shapely.Geometry, tissue: TissueMask, info: SlideInfo
) -> RoiAnnotation:
    """The annotation without the tissue in an area (absolute level-0 px) that totals leave out."""
    part = RoiArea(
        annotation.name, annotation.class_name, annotation.geometry & area, is_ignored=False
    )
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
    folder: Path,
    store: Store,
    info: SlideInfo,
    provenance: Provenance,
    grid: DensityGrid,
    threads: int,
) -> list[dict[str, Any]]:
    """Draw the chosen fields as ``overlays/1.png`` ...; earlier overlays are replaced all at
    once.
    """
    nuclei = SlideFiles(folder).nuclei
    column, classes = "label", provenance.classes
    if provenance.positive_od is not None:
        column, classes = POSITIVE, stains.CLASSES
        grid = count_nuclei(
            stream_positions(nuclei, POSITIVE), info.size_px, info.mpp, len(classes)
        )
    with complete_file(folder / "overlays") as partial:
        partial.mkdir()

        def draw(numbered: tuple[int, Field]) -> dict[str, Any]:
            number, field = numbered
            counts = draw_field(
                store, nuclei, field, classes, partial / f"{number}.png", column=column
            )
            return {
                "picture": f"overlays/{number}.png",
                "caption": field.caption,
                "xy_level0": (
                    np.round(work_to_level0(field.xy_um, store.slide_mpp, 1.0), 1).tolist()
                ),
                "size_um": [round(side * store.mpp, 1) for side in field_size_px(store, field)],
                "n_nuclei": sum(counts.values()),
            }

        return list(map_in_order(draw, enumerate(choose_fields(grid), 1), threads))


def _read_backdrop(store: Store) -> Iterator[np.ndarray]:
    """Yield the colour planes of the slide, from the smallest pyramid level large enough for the
    density picture.
    """
    levels = [store.at(store.mpp * factor) for factor in PYRAMID]
    enough = [level for level in levels if max(level.size_px) >= LONG_SIDE_PX]
    level = enough[-1] if enough else levels[0]
    width, height = level.size_px
    strips = [(top, min(CHUNK_PX, height - top)) for top in range(0, height, CHUNK_PX)]
    for channel in range(3):
        yield np.concatenate(
            [level.read_planes((0, top), (width, n))[channel] for top, n in strips]
        )
