"""True nuclei of slides, the regions in which they are complete, and the results to compare with
them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import shapely
from numpy import ndarray
from shapely.geometry.base import BaseGeometry

from muse_pipeline.cohort.layout import CohortFiles
from muse_pipeline.cohort.patients import find_patients
from muse_pipeline.cohort.sheet import read_table
from muse_pipeline.core.errors import GeoJSONError, LabelError, NucleiError, SheetError
from muse_pipeline.core.text import some_of
from muse_pipeline.core.types import Frame
from muse_pipeline.labels.nuclei_files import (
    MASK_SUFFIXES,
    TABLE_SUFFIXES,
    read_drawn,
    read_points,
    require_size,
)
from muse_pipeline.nuclei.class_names import ClassWords
from muse_pipeline.nuclei.masks import (
    label_image_to_polygons,
    read_label_image,
    read_mask,
    require_nuclei,
)
from muse_pipeline.nuclei.rays import interior_centres, repair_areas
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.qupath.parse import GEOJSON_SUFFIXES, list_counts
from muse_pipeline.qupath.read import read_geojson
from muse_pipeline.qupath.regions import IGNORE, are_called, take_out_ignored, union_of_areas

SUFFIXES = (*TABLE_SUFFIXES, *GEOJSON_SUFFIXES, *MASK_SUFFIXES)
ClassMap = Mapping[str, str | Sequence[str] | None]


@dataclass(frozen=True, eq=False)
class Truth:
    """Ground truth of one slide."""

    nuclei: Nuclei  # T nuclei (frame: level0); label -1 if the class is unknown
    # (T,) polygons in level-0 px, empty without nuclei; None if at least one nucleus is a point
    outlines: ndarray | None = None
    # area in which the truth is complete, in level-0 px; None for the whole slide
    region: BaseGeometry | None = None
    # (T, C) bool, accepted classes of each nucleus, including its label; None if no nucleus has
    # several classes
    accepted: ndarray | None = None

    def __getitem__(self, chosen: ndarray) -> Truth:
        """The nuclei chosen by a mask (T,)."""
        outlines, accepted = (
            rows if rows is None else rows[chosen] for rows in (self.outlines, self.accepted)
        )
        return Truth(self.nuclei[chosen], outlines, self.region, accepted)


def read_truth(
    path: Path,
    classes: Sequence[str],
    mpp: tuple[float, float],
    offset_px: tuple[int, int] = (0, 0),
    size_px: tuple[int, int] | None = None,
    class_map: ClassMap | None = None,
) -> Truth:
    """Read the truth in the format of its suffix: a table of points, GeoJSON, or an instance mask
    of level 0.

    For a model of one class, all classes of the truth are mapped to this class unless ``class_map``
    is given. It maps each class of the file to a class of the model, several accepted classes, or
    None (not scored); without a map, the file must use the names of the model or synonyms. ``mpp``
    is that of level 0, ``offset_px`` the level-0 position of the origin of a GeoJSON file, and
    ``size_px`` (width, height) that of level 0, which a mask must have.
    """
    name = path.name.lower()
    if path.is_file() and not name.endswith(SUFFIXES):
        raise LabelError(
            f"{path}: not a file of ground truth; its name must end in {' or '.join(SUFFIXES)}"
        )
    if name.endswith(MASK_SUFFIXES):
        return _read_mask(path, mpp, size_px)
    if name.endswith(GEOJSON_SUFFIXES):
        true = read_drawn(path, mpp, n_rays=1, offset_px=offset_px)
    else:
        true = read_points(
            path, ("x", "y", "class"), remedy="rename the columns; x and y are level-0 pixels"
        )
    true.require_distinct(mpp)
    are_outlines = true.shapes is not None and (shapely.get_dimensions(true.shapes) == 2).all()
    if len(classes) == 1 and not class_map:
        indices = [(0,)] * len(true.nuclei)
    else:
        words = ClassWords(classes, class_map or {}, "rename it, or map it with --class-map")
        indices = true.resolve(words.indices, ())
    label = np.array([next(iter(labels), -1) for labels in indices], np.int32)
    accepted = None
    if any(len(labels) > 1 for labels in indices):
        accepted = np.array([np.isin(range(len(classes)), labels) for labels in indices])
    return Truth(
        replace(true.nuclei, label=label),
        true.shapes if are_outlines else None,
        true.area,
        accepted,
    )


def _read_mask(path: Path, mpp: tuple[float, float], size_px: tuple[int, int] | None) -> Truth:
    """Read an instance mask, which has no classes."""
    mask = read_label_image(path)
    if size_px is not None:
        remedy = "give a mask of the whole slide at level 0, or outlines as GeoJSON"
        require_size(path, mask, size_px, "level 0 of the slide", remedy)
    require_nuclei(path, mask, mpp)
    outlines = label_image_to_polygons(mask)
    return Truth(Nuclei(interior_centres(outlines), Frame.LEVEL0), outlines)


def read_region(
    path: Path, size_px: tuple[int, int] | None, offset_px: tuple[int, int] = (0, 0)
) -> BaseGeometry:
    """Read the annotated region of a slide from GeoJSON areas, or from a mask of the whole slide at
    any resolution.

    Areas of the class "Ignore" are subtracted, and pixels of a mask are annotated if they are not
    0. ``offset_px`` and ``size_px`` are those of ``read_truth``.
    """
    if path.name.lower().endswith(MASK_SUFFIXES):
        if size_px is None:
            raise LabelError(
                f"{path}: its position is unknown without the slide.json next to the nuclei;"
                " restore it"
            )
        mask = read_mask(path) != 0
        scale = np.array(size_px) / mask.shape[::-1]
        parts = label_image_to_polygons(mask)
    else:
        objects, scale = read_geojson(path, offset_px), np.ones(2)
        parts = take_out_ignored(repair_areas(objects.geometry), are_called(objects, (IGNORE,)))
    region = union_of_areas(shapely.transform(parts, lambda xy: xy * scale))
    if region is None:
        kinds = list_counts(Counter(part.geom_type.lower() for part in parts))
        raise GeoJSONError(
            f"{path}: contains no area (found: {kinds}); draw the annotated region as a closed area"
        )
    return region


REGION_SUFFIXES = (*GEOJSON_SUFFIXES, *MASK_SUFFIXES)


@dataclass(frozen=True)
class SlidePair:
    """A slide to score."""

    slide_id: str  # id of the slide
    nuclei: Path  # table of the detected nuclei
    truth: Path  # file of the true nuclei
    region: Path | None  # file of the region where the truth is complete, if separate
    patient: str  # patient of the slide, the unit of the bootstrap


@dataclass(frozen=True)
class Pairing:
    """All slides to score, and all slides that cannot be scored."""

    pairs: tuple[SlidePair, ...]  # one or more slides to score
    grouping: str  # description of what counts as a patient
    without_truth: tuple[str, ...] = ()  # slides with a result but no truth
    without_result: tuple[str, ...] = ()  # slides with a truth but no result
    beyond_sheet: tuple[str, ...] = ()  # slides with a result that are not in the sheet


def pair_one(nuclei: Path, truth: Path, slide_id: str, region: Path | None) -> Pairing:
    """Pair one table with one file of truth."""
    if truth.is_dir():
        raise LabelError(
            f"{truth}: is a folder, while {nuclei} is one table; give that slide's file, or a"
            " results folder"
        )
    return Pairing((SlidePair(slide_id, nuclei, truth, region, slide_id),), "the slide itself")


def pair_folder(
    results: Path,
    truth: Path | None,
    sheet: Path | None = None,
    region: Path | None = None,
    patient: str | None = None,
) -> Pairing:
    """Pair every slide of a results folder with its truth, by name or by a sheet.

    ``truth`` and ``region`` are folders of files named after slides; a sheet with a column
    ``truth`` replaces the former, and only its slides are scored. ``patient`` is a regular
    expression searched in a slide's name; the match (its first group, if any) is the patient.
    """
    tables = CohortFiles(results).tables()
    if not tables:
        raise NucleiError(
            f"{results}: holds no <slide>/nuclei.parquet; give the output folder of a run, or one"
            " table"
        )
    rows = read_evaluation_sheet(sheet) if sheet else {}
    truths = _by_slide(truth, SUFFIXES, "--truth") | _named_files(rows, "truth", sheet)
    regions = _by_slide(region, REGION_SUFFIXES, "--region") | _named_files(rows, "region", sheet)
    wanted = rows or tables | truths
    paired = [name for name in sorted(wanted) if name in tables and name in truths]
    if not paired:
        raise LabelError(
            f"no slide has both a result and a truth: results of {some_of(sorted(tables), 3)},"
            f" truths of {some_of(sorted(truths), 3) or 'none'}; name truths as their slides, as in"
            " <slide>.csv, or give a --sheet with the columns slide_id and truth"
        )
    patients, grouping = find_patients(paired, rows, patient)
    return Pairing(
        tuple(
            SlidePair(name, tables[name], truths[name], regions.get(name), patients[name])
            for name in paired
        ),
        grouping,
        tuple(name for name in sorted(wanted) if name in tables and name not in truths),
        tuple(name for name in sorted(wanted) if name not in tables),
        tuple(name for name in sorted(tables) if name not in wanted),
    )


def read_evaluation_sheet(path: Path) -> dict[str, dict[str, str]]:
    """Read the rows of a sheet by slide; the workflow's sheet can be used too, since other columns
    are ignored.
    """
    header, records = read_table(path)
    if "slide_id" not in header:
        raise SheetError(
            f"{path}: column 'slide_id' is missing (found {', '.join(header)}); add it"
        )
    rows = {}
    for number, cells in records:
        row = dict(zip(header, cells, strict=False))
        if not row.get("slide_id"):
            raise SheetError(f"{path}, row {number}: has no slide_id; fill it in or remove the row")
        if row["slide_id"] in rows:
            raise SheetError(
                f"{path}, row {number}: slide_id '{row['slide_id']}' occurs twice; remove one"
            )
        rows[row["slide_id"]] = row
    if not rows:
        raise SheetError(f"{path}: no slide in it; add a row per slide")
    return rows


def _by_slide(folder: Path | None, suffixes: tuple[str, ...], option: str) -> dict[str, Path]:
    if folder is None:
        return {}
    if not folder.is_dir():
        raise LabelError(
            f"{folder}: no such folder; to score a results folder, {option} names a folder of files"
            " <slide>.<suffix>"
        )
    files = {}
    for path in sorted(folder.iterdir()):
        suffix = next(
            (end for end in sorted(suffixes, key=len)[::-1] if path.name.lower().endswith(end)),
            None,
        )
        if suffix is None or path.name.startswith("."):
            continue
        name = path.name[: -len(suffix)]
        if name in files:
            raise LabelError(
                f"{folder}: '{files[name].name}' and '{path.name}' are both slide '{name}';"
                " keep one"
            )
        files[name] = path
    return files


def _named_files(
    rows: dict[str, dict[str, str]], column: str, sheet: Path | None
) -> dict[str, Path]:
    files = {name: sheet.parent / row[column] for name, row in rows.items() if row.get(column)}
    for name, path in files.items():
        if not path.is_file():
            raise SheetError(
                f"{sheet}: {column} of slide '{name}' is not a file ({path}); correct it"
            )
    return files
