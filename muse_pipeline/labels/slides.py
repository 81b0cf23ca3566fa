"""Labelled slides: annotated regions, each with context around it, read at the model's mpp."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from muse_pipeline.cohort.collect import collect_slides
from muse_pipeline.cohort.layout import SlideFiles
from muse_pipeline.cohort.sheet import SheetRow, read_sheet
from muse_pipeline.core.coords import level0_to_work, qupath_offset_px, work_to_level0
from muse_pipeline.core.errors import GeoJSONError, LabelError
from muse_pipeline.core.types import Frame, Slide, SlideInfo
from muse_pipeline.labels.formats import Annotations, read_annotated, read_text, require_distinct
from muse_pipeline.labels.pictures import OF_SOURCE, LabelledImage, complete_outlines, require_agreement
from muse_pipeline.labels.regions import RegionWindow, cut_regions
from muse_pipeline.labels.sources import SUFFIXES, TEXT_SUFFIXES, LabelFiles, LabelSource, read_split
from muse_pipeline.nuclei.parquet import footer_checksum
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.qupath.objects import properties_of
from muse_pipeline.qupath.parse import iterate_features
from muse_pipeline.slides.base import open_slide
from muse_pipeline.slides.inspect import inspect_slide
from muse_pipeline.store.resample import AreaReader
from muse_pipeline.tissue.colour import measure_colour
from muse_pipeline.tissue.find import find_tissue
from muse_pipeline.tissue.mask import TissueMask
from muse_pipeline.tissue.stain import MacenkoFit

SLIDE, NUCLEI = "muse slide", "muse nuclei"  # metadata keys of regions drawn in the viewer (page/teach.js)


def is_from_viewer(path: Path, info: SlideInfo, results: Path | None) -> bool:
    """True if the regions of a GeoJSON file were drawn in the viewer to correct nuclei.

    Raises:
        LabelError: the file cannot be read or belongs to a different slide; or ``results`` is given, but the nuclei in
            it are missing or are not those that the file corrects.
    """
    try:
        metadata = [properties_of(each).get("metadata") for each in iterate_features(path) if isinstance(each, dict)]
    except GeoJSONError as error:
        raise LabelError(str(error)) from error
    found = [each for each in metadata if isinstance(each, dict) and SLIDE in each and NUCLEI in each]
    if not found:
        return False
    if {str(each[SLIDE]) for each in found} != {info.fingerprint}:
        raise LabelError(
            f"{path}: comes from the viewer of a slide other than '{info.slide_id}'; rename it to that slide's id"
        )
    if results is None:
        return True
    nuclei = SlideFiles(results / info.slide_id).nuclei
    if not nuclei.is_file():
        raise LabelError(f"{nuclei}: no such file; `results` must be the output folder of the run that was corrected")
    if {str(each[NUCLEI]) for each in found} != {footer_checksum(nuclei)}:
        raise LabelError(
            f"{path}: corrects an older result of slide '{info.slide_id}' than {nuclei}; correct the new one, or "
            "remove `results` to train on the older corrections anyway"
        )
    return True


OUTLINE_MARGIN_UM = 30.0  # context around the cell of a window, for outlines that grow over its border


def read_slides(
    source: LabelSource, classes: tuple[str, ...], mpp: float, n_rays: int, context_px: int
) -> Iterator[LabelledImage]:
    """Read the annotated regions of the slides that a source selects, as pictures with context (``cut_regions``).

    Raises:
        LabelError: as in ``labels.read.read_labelled_images``.
    """
    rows = list_slides(source)
    ids = [row.slide_id for row in rows]
    labels = LabelFiles(source.labels, ids, SUFFIXES.get(source.format, TEXT_SUFFIXES))
    regions = LabelFiles(source.regions, ids, SUFFIXES["geojson"]) if source.regions is not None else None
    for row in choose_slides(rows, source):
        info = inspect_row(row, source)
        region_path = regions.of(row.slide_id) if regions is not None else None
        annotations = _read(labels.of(row.slide_id), region_path, source, classes, info, n_rays)
        with open_slide(row.path, info.reader) as slide:
            yield from _read_regions(slide, info, row, annotations, source, mpp, n_rays, context_px)


def list_slides(source: LabelSource) -> list[SheetRow]:
    """List every slide of the sheet or folder, used or not.

    Raises:
        SheetError: the sheet is missing or invalid, or the folder has no slides.
    """
    return collect_slides(source.slides, source.mpp) if source.slides.is_dir() else read_sheet(source.slides)


def choose_slides(rows: list[SheetRow], source: LabelSource) -> list[SheetRow]:
    """Select the slides in ``split`` (a file of names, or a value in the sheet's split column) but not in ``exclude``.

    Raises:
        LabelError: no slide has this split, or its file is missing or names a slide that does not exist.
    """
    if source.split is not None and any(row.split for row in rows) and not source.split.is_file():
        chosen = [row for row in rows if row.split == source.split.name]
        if not chosen:
            known = ", ".join(sorted({row.split for row in rows if row.split}))
            raise LabelError(f"{source.slides}: no slide has the split '{source.split.name}'; known: {known}")
    elif source.split is not None:
        by_name = {name: row for row in rows for name in (row.slide_id, Path(row.path).name)}
        names = read_split(source)
        if missing := [name for name in names if name not in by_name]:
            raise LabelError(
                f"{source.split}: {len(missing)} of its slides are not in {source.slides}, first {missing[0]}"
            )
        chosen = [by_name[name] for name in names]
    else:
        chosen = rows
    return [row for row in chosen if source.is_used(row.slide_id) and source.is_used(Path(row.path).name)]


def inspect_row(row: SheetRow, source: LabelSource) -> SlideInfo:
    """Read the properties of a slide, and reject a stated mpp that disagrees with the file's."""
    stated = row.mpp if source.mpp is None else source.mpp
    with open_slide(row.path) as slide:
        known = next(iter(slide.properties.mpp_candidates), None)
    if stated is not None:
        if known is not None and not known.is_estimate:
            origin = OF_SOURCE if source.mpp is not None else f"`mpp` of slide '{row.slide_id}' in {source.slides}"
            require_agreement(row.path, stated, known.mpp, known.source, origin)
    elif known is None:
        where = f"in the column mpp of {source.slides}, or as `mpp` of this source"
        raise LabelError(f"{row.path}: the file does not state the size of a pixel; give um per pixel {where}")
    return inspect_slide(row.path, row.slide_id, stated)


def _read(
    path: Path,
    region_path: Path | None,
    source: LabelSource,
    classes: tuple[str, ...],
    info: SlideInfo,
    n_rays: int,
) -> Annotations:
    """Read the labels of a slide, in absolute level-0 px, from GeoJSON in QuPath's frame or text in level-0 px.

    Raises:
        LabelError: the file is broken or has no annotated region.
    """
    offset = qupath_offset_px(info.bounds)
    if source.format == "geojson":
        annotations = read_annotated(path, source, classes, Frame.LEVEL0, info.mpp, n_rays, offset)
        annotations = replace(annotations, made_in_viewer=is_from_viewer(path, info, source.results))
    else:
        annotations = read_text(path, source, classes, Frame.LEVEL0, n_rays)
    annotations.require_within(info.size_px, f"slide '{info.slide_id}'")
    require_distinct(path, annotations.nuclei.xy, info.mpp)
    drawn = annotations
    if region_path is not None:
        drawn = read_annotated(region_path, source, classes, Frame.LEVEL0, info.mpp, n_rays, offset)
    drawn.require_regions(source, f"slide '{info.slide_id}'")
    return replace(annotations, regions=drawn.regions)


def _read_regions(
    slide: Slide,
    info: SlideInfo,
    row: SheetRow,
    annotations: Annotations,
    source: LabelSource,
    mpp: float,
    n_rays: int,
    context_px: int,
) -> Iterator[LabelledImage]:
    inside = annotations.in_regions(source)
    nuclei = annotations.nuclei[inside].require(Frame.LEVEL0)
    nuclei = replace(nuclei, xy=level0_to_work(nuclei.xy, info.mpp, mpp), frame=Frame.WORK)
    # In training, slides coarser than the model are rejected; in a run, they are enlarged.
    reader = AreaReader(slide, info, mpp, enlarge=False)
    area = _region_area(annotations, info, mpp)
    _require_nuclei(area, nuclei, annotations, source, info, mpp)
    tissue = find_tissue(slide, info).tissue
    _require_tissue(area, nuclei, tissue, annotations, info, mpp)
    colour = measure_colour(slide, info, tissue)  # as in `muse tissue`, so that training and runs normalise alike
    n_left_out = int((~inside).sum())
    for window in cut_regions(area, reader.size_px, context_px):
        pixels = reader.read(window.origin, window.size)
        own = _nuclei_of(window, nuclei)
        if source.grow_outlines:
            own = _grow_outlines(window, own, pixels, colour.macenko, mpp, n_rays)
        yield LabelledImage(
            name=name_window(row.slide_id, window, info, mpp),
            pixels=pixels,
            nuclei=own,
            stain=colour.macenko,
            appearance=colour.appearance,
            weight=source.weight,
            grow_outlines=source.grow_outlines,
            region=window.mask(),
            annotated=window.annotated(),
            patient=row.patient or source.patient_of(row.slide_id),
            source=str(source.slides),
            stated_mpp=source.mpp,
            n_left_out=n_left_out,
        )
        n_left_out = 0


def name_window(prefix: str, window: RegionWindow, info: SlideInfo, mpp: float) -> str:
    """A name with the corner of the window's cell in absolute level-0 px."""
    x, y = work_to_level0(np.array(window.cell[:2]), info.mpp, mpp).round().astype(int)
    return f"{prefix}_x{x}_y{y}"


def _region_area(annotations: Annotations, info: SlideInfo, mpp: float) -> BaseGeometry:
    """The union of the regions within the slide, in work px.

    Raises:
        LabelError: the regions lie outside the slide.
    """
    area = shapely.intersection(shapely.union_all(annotations.regions), shapely.box(0, 0, *info.size_px))
    if not area.area:
        raise LabelError(
            f"{annotations.path}: its regions lie outside slide '{info.slide_id}'; do they belong to a different slide?"
        )
    return shapely.transform(area, lambda xy: level0_to_work(xy, info.mpp, mpp))


def _require_nuclei(
    area: BaseGeometry, nuclei: Nuclei, annotations: Annotations, source: LabelSource, info: SlideInfo, mpp: float
) -> None:
    """Reject a region without a nucleus, unless the source allows it or the file was made in the viewer.

    Raises:
        LabelError: a region has no nucleus; the message has its corner in QuPath's coordinates.
    """
    for region in shapely.get_parts(area):
        if source.allow_empty or annotations.made_in_viewer or shapely.intersects_xy(region, *nuclei.xy.T).any():
            continue
        raise LabelError(
            f"{annotations.path}: {_where(region, info, mpp)} contains no nucleus; label its nuclei, delete the "
            "region, or set `allow_empty: true` if there are none"
        )


def _require_tissue(
    area: BaseGeometry, nuclei: Nuclei, tissue: TissueMask, annotations: Annotations, info: SlideInfo, mpp: float
) -> None:
    """Reject a region with half of its nuclei on glass, because the frame may be wrong.

    Slides in which no tissue was found, such as fluorescence images, are not checked.

    Raises:
        LabelError: a region lies on glass; the message has its corner in QuPath's coordinates.
    """
    is_doubtful = not (tissue.is_empty or annotations.made_in_viewer)  # the viewer allows nuclei outside tissue
    for region in shapely.get_parts(area) if is_doubtful else ():
        own = nuclei[shapely.intersects_xy(region, *nuclei.xy.T)]
        if not len(own):
            continue
        n_off = int((~tissue.kept.contains(work_to_level0(own.xy, info.mpp, mpp), info.mpp)).sum())
        if 2 * n_off >= len(own):
            raise LabelError(
                f"{annotations.path}: {_where(region, info, mpp)} lies on glass ({n_off} of its {len(own)} nuclei are "
                "outside tissue); are the positions pixels of this slide, as in QuPath?"
            )


def _where(region: BaseGeometry, info: SlideInfo, mpp: float) -> str:
    """Describe a region by its corner in QuPath's coordinates."""
    x, y = work_to_level0(np.array(region.bounds[:2]), info.mpp, mpp) - qupath_offset_px(info.bounds)
    return f"the region at ({x:.0f}, {y:.0f}) of slide '{info.slide_id}'"


def _nuclei_of(window: RegionWindow, nuclei: Nuclei) -> Nuclei:
    """The nuclei (frame: window) in the cell of a window."""
    own = nuclei[window.contains(nuclei.xy)]
    return replace(own, xy=own.xy - window.origin, frame=Frame.WINDOW)


def _grow_outlines(
    window: RegionWindow, own: Nuclei, pixels: np.ndarray, stain: MacenkoFit | None, mpp: float, n_rays: int
) -> Nuclei:
    """Complete the outlines of a window's nuclei, reading only the pixels around its cell."""
    margin = round(OUTLINE_MARGIN_UM / mpp)
    left, top = (max(window.cell[i] - window.origin[i] - margin, 0) for i in (0, 1))
    right, bottom = (window.cell[i + 2] - window.origin[i] + margin for i in (0, 1))
    near = replace(own, xy=own.xy - (left, top))
    return replace(own, rays=complete_outlines(pixels[top:bottom, left:right], near, stain, mpp, n_rays).rays)
