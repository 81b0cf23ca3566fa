"""True nuclei of slides, with the regions where they are complete, and their pairing with results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import shapely
from shapely.geometry.base import BaseGeometry

from muse_pipeline.cohort.layout import CohortFiles
from muse_pipeline.cohort.patients import find_patients
from muse_pipeline.cohort.sheet import read_table
from muse_pipeline.core.errors import GeoJSONError, LabelError, NucleiError, SheetError
from muse_pipeline.core.files import read_rows
from muse_pipeline.core.geometry import repair_areas
from muse_pipeline.core.text import decimal_point
from muse_pipeline.core.types import Frame
from muse_pipeline.labels.formats import require_distinct
from muse_pipeline.labels.sources import split_unit
from muse_pipeline.nuclei.class_names import find_class, map_class, resolve_all
from muse_pipeline.nuclei.masks import label_image_to_polygons, read_label_image, read_mask, require_nuclei
from muse_pipeline.nuclei.rays import interior_centres
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.qupath.objects import list_counts
from muse_pipeline.qupath.parse import GEOJSON_SUFFIXES
from muse_pipeline.qupath.read import read_geojson
from muse_pipeline.qupath.regions import (
    IGNORE,
    are_called,
    require_nucleus_size,
    split_regions,
    take_out_ignored,
    union_of_areas,
)

TABLES = (".csv", ".tsv")
MASKS = (".png", ".tif", ".tiff")
SUFFIXES = (*TABLES, *GEOJSON_SUFFIXES, *MASKS)
UNKNOWN = -1
ClassMap = Mapping[str, str | Sequence[str] | None]


@dataclass(frozen=True, eq=False)
class Truth:
    """Ground truth of one slide.

    Attributes:
        nuclei: T nuclei (frame: level0); label -1 if the class is unknown.
        outlines: (T,) polygons in level-0 px, empty without nuclei; None if at least one nucleus is a point.
        region: area in which the truth is complete, in level-0 px; None for the whole slide.
        accepted: (T, C) bool, accepted classes of each nucleus, including its label; None if no nucleus has
            several classes.
    """

    nuclei: Nuclei
    outlines: np.ndarray | None = None
    region: BaseGeometry | None = None
    accepted: np.ndarray | None = None

    def __getitem__(self, chosen: np.ndarray) -> Truth:
        """The nuclei chosen by a mask (T,)."""
        outlines, accepted = (each if each is None else each[chosen] for each in (self.outlines, self.accepted))
        return Truth(self.nuclei[chosen], outlines, self.region, accepted)


def read_truth(
    path: Path,
    classes: Sequence[str],
    mpp: tuple[float, float],
    offset_px: tuple[int, int] = (0, 0),
    size_px: tuple[int, int] | None = None,
    class_map: ClassMap | None = None,
) -> Truth:
    """Read the truth in the format of its suffix: a table of points, GeoJSON, or a label image of level 0.

    For a model of one class, all classes of the truth are mapped to this class unless ``class_map`` is given.

    Args:
        path: file of the truth.
        classes: names of the classes, by label.
        mpp: (x, y) um per level-0 pixel.
        offset_px: level-0 position of the origin of a GeoJSON file.
        size_px: (width, height) of level 0, which a label image must have; None if unknown.
        class_map: a class of the model, several accepted classes, or None (not scored) for each class of the file;
            without a map, the file must use the names of the model or synonyms.

    Raises:
        LabelError: the file is missing, broken, of an unknown format or of a different size from the slide, has a
            class that the model lacks, has an instance that is not a nucleus or contains many nuclei twice.
        GeoJSONError: the file is not GeoJSON.
    """
    if path.is_file() and not path.name.lower().endswith(SUFFIXES):
        raise LabelError(f"{path}: not a file of ground truth; its name must end in {' or '.join(SUFFIXES)}")
    if path.name.lower().endswith(MASKS):
        return _read_mask(path, mpp, size_px)
    if path.name.lower().endswith(GEOJSON_SUFFIXES):
        truth = _read_objects(path, classes, mpp, offset_px, class_map)
    else:
        truth = read_points(path, classes, class_map)
    require_distinct(path, truth.nuclei.xy, mpp)
    return truth


def read_points(path: Path, classes: Sequence[str], class_map: ClassMap | None = None) -> Truth:
    """Read a CSV or TSV with the columns x, y and class, in any capitalisation; an empty class is unknown."""
    table = _name_columns(_read_cells(path), path)
    xy = table[["x", "y"]].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    if not np.isfinite(xy).all():
        row, column = np.argwhere(~np.isfinite(xy))[0]
        name, cell = "xy"[column], table.iat[row, column]
        raise LabelError(f"{path}, line {table.index[row]}: {name} is '{cell[:40]}', which is not a number; correct it")
    label, accepted = _classify(table["class"], classes, class_map, lambda i: f"{path}, line {table.index[i]}")
    return Truth(Nuclei(xy, Frame.LEVEL0, label=label), accepted=accepted)


def _classify(
    words: Sequence[str | None], classes: Sequence[str], class_map: ClassMap | None, where: Callable[[int], str]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Labels (N,) of nuclei from their class names, and their accepted classes (``Truth.accepted``)."""
    if len(classes) == 1 and not class_map:
        return np.zeros(len(words), np.int32), None

    def resolve(index: int) -> tuple[int, ...]:
        if class_map:
            return map_class(words[index], class_map, classes, where(index))
        return (find_class(words[index], classes, where(index), "rename it, or map it with --class-map"),)

    words, first = list(words), {}
    for index, word in enumerate(words):
        if word:
            first.setdefault(word, index)
    meant = {None: (), "": (), **dict(zip(first, resolve_all(first.values(), resolve), strict=True))}
    label = np.array([next(iter(meant[word]), UNKNOWN) for word in words], np.int32)
    if max(map(len, meant.values())) < 2:
        return label, None
    return label, np.array([np.isin(range(len(classes)), meant[word]) for word in words])


def _read_cells(path: Path) -> pd.DataFrame:
    """Read a table of stripped cells; its index is the line on which each row ends."""
    separator, ((_, header), *rows) = read_rows(path, "x, y, class")
    for line, row in rows:
        if len(row) < len(header) or any(row[len(header) :]):
            raise LabelError(f"{path}, line {line}: has {len(row)} cells, but the header has {len(header)}; correct it")
    cells = {name: [row[i] for _, row in rows] for i, name in reversed([*enumerate(header)])}  # first of equal names
    for name in cells if separator == ";" else ():
        if split_unit(name)[0] in {"x", "y"}:
            cells[name] = [decimal_point(cell, separator) for cell in cells[name]]
    return pd.DataFrame({name: cells[name] for name in header}, index=[line for line, _ in rows], dtype=str)


def _name_columns(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The columns x, y and class, in any capitalisation and with or without "px" as unit."""
    found = {split_unit(name)[0]: name for name in table.columns} | {name: name for name in table.columns}
    missing = sorted({"x", "y", "class"} - set(found))
    names = ", ".join(table.columns[:8]) + (", ..." if len(table.columns) > 8 else "")
    if missing and (of_qupath := next((name for name in found if name.lower().startswith("centroid x")), None)):
        unit = "um" if split_unit(found[of_qupath])[1] == "um" else "pixels of QuPath's frame"
        raise LabelError(f"{path}: has positions from QuPath ({names}), in {unit}; export GeoJSON instead")
    if in_um := [found[name] for name in ("x", "y") if split_unit(found.get(name, ""))[1] == "um"]:
        raise LabelError(f"{path}: positions are in um ({', '.join(in_um)}); give them in level-0 pixels")
    if missing:
        raise LabelError(
            f"{path}: lacks the columns {', '.join(missing)}; it has {names}, needed are x, y (level-0 px) and class"
        )
    return pd.DataFrame({name: table[found[name]] for name in ("x", "y", "class")})


def _read_objects(
    path: Path,
    classes: Sequence[str],
    mpp: tuple[float, float],
    offset_px: tuple[int, int],
    class_map: ClassMap | None,
) -> Truth:
    objects, region = split_regions(read_geojson(path, offset_px, tiles=False))
    parts = objects.to_parts()
    require_nucleus_size(parts, mpp)
    xy, _ = parts.measure(mpp, n_rays=1)
    label, accepted = _classify(
        objects.class_name[parts.owner], classes, class_map, lambda i: f"{path}, feature {parts.number[i]}"
    )
    outlines = parts.geometry if parts.is_polygon.all() else None
    return Truth(Nuclei(xy, Frame.LEVEL0, label=label), outlines, region, accepted)


def _read_mask(path: Path, mpp: tuple[float, float], size_px: tuple[int, int] | None) -> Truth:
    """Read an instance mask, which has no classes."""
    mask = read_label_image(path)
    height, width = mask.shape
    if size_px is not None and (width, height) != tuple(size_px):
        raise LabelError(
            f"{path}: is {width:,} x {height:,} px, but level 0 of the slide is {size_px[0]:,} x {size_px[1]:,} px; "
            "give a mask of the whole slide at level 0, or outlines as GeoJSON"
        )
    require_nuclei(path, mask, mpp)
    outlines = label_image_to_polygons(mask)
    return Truth(Nuclei(interior_centres(outlines), Frame.LEVEL0), outlines)


def read_region(path: Path, size_px: tuple[int, int] | None, offset_px: tuple[int, int] = (0, 0)) -> BaseGeometry:
    """Read the annotated region of a slide from a separate file: GeoJSON areas, or a mask of the whole slide.

    Areas of the class "Ignore" are subtracted.

    Args:
        path: path of GeoJSON, or of a picture in which the annotated pixels are not 0.
        size_px: (width, height) of level 0, which the picture covers at any resolution; None if unknown.
        offset_px: level-0 position of the origin of a GeoJSON file.

    Raises:
        LabelError: the picture cannot be read or placed.
        GeoJSONError: the file is not GeoJSON or contains no area.
    """
    if path.name.lower().endswith(MASKS):
        if size_px is None:
            raise LabelError(f"{path}: its position is unknown without the slide.json next to the nuclei; restore it")
        mask = read_mask(path) != 0
        scale = np.array(size_px) / mask.shape[::-1]
        parts = label_image_to_polygons(mask)
    else:
        objects, scale = read_geojson(path, offset_px), np.ones(2)
        parts = take_out_ignored(repair_areas(objects.geometry), are_called(objects, (IGNORE,)))
    region = union_of_areas(shapely.transform(parts, lambda xy: xy * scale))
    if region is None:
        found = list_counts(Counter(part.geom_type.lower() for part in parts))
        raise GeoJSONError(f"{path}: contains no area (found: {found}); draw the annotated region as a closed area")
    return region


REGION_SUFFIXES = tuple(suffix for suffix in SUFFIXES if suffix not in {".csv", ".tsv"})


@dataclass(frozen=True)
class SlidePair:
    """A slide to score.

    Attributes:
        slide_id: id of the slide.
        nuclei: table of the detected nuclei.
        truth: file of the true nuclei.
        region: file of the region where the truth is complete, if separate.
        patient: patient of the slide, the unit of the bootstrap.
    """

    slide_id: str
    nuclei: Path
    truth: Path
    region: Path | None
    patient: str


@dataclass(frozen=True)
class Pairing:
    """All slides to score, and all slides that cannot be scored.

    Attributes:
        pairs: one or more slides to score.
        grouping: description of what counts as a patient.
        without_truth: slides with a result but no truth.
        without_result: slides with a truth but no result.
        beyond_sheet: slides with a result that are not in the sheet.
    """

    pairs: tuple[SlidePair, ...]
    grouping: str
    without_truth: tuple[str, ...] = ()
    without_result: tuple[str, ...] = ()
    beyond_sheet: tuple[str, ...] = ()


def pair_one(nuclei: Path, truth: Path, slide_id: str, region: Path | None = None) -> Pairing:
    """Pair one table with one file of truth."""
    if truth.is_dir():
        raise LabelError(
            f"{truth}: is a folder, while {nuclei} is one table; give that slide's file, or a results folder"
        )
    return Pairing((SlidePair(slide_id, nuclei, truth, region, slide_id),), "the slide itself")


def pair_folder(
    results: Path,
    truth: Path | None = None,
    sheet: Path | None = None,
    region: Path | None = None,
    patient: str | None = None,
) -> Pairing:
    """Pair every slide of a results folder with its truth, by name or by a sheet.

    Args:
        results: folder that contains ``<slide>/nuclei.parquet``.
        truth: folder of ``<slide>.csv``, ``.tsv``, ``.geojson`` ...; not needed if the sheet has a column ``truth``.
        sheet: table with ``slide_id`` and, if known, ``patient``, ``truth`` and ``region``; only its slides are scored.
        region: folder of ``<slide>.geojson`` or ``.png``.
        patient: regular expression searched in a slide's name; the match (its first group, if any) is the patient.

    Raises:
        NucleiError: there are no results.
        LabelError: no slide has both a result and a truth, or a folder is missing or has two files of a slide.
        SheetError: the sheet is broken.
        ConfigError: the expression is invalid, or does not match a name.
    """
    found = CohortFiles(results).tables()
    if not found:
        raise NucleiError(f"{results}: holds no <slide>/nuclei.parquet; give the output folder of a run, or one table")
    rows = read_evaluation_sheet(sheet) if sheet else {}
    truths = _by_slide(truth, SUFFIXES, "--truth") | _named_files(rows, "truth", sheet)
    regions = _by_slide(region, REGION_SUFFIXES, "--region") | _named_files(rows, "region", sheet)
    wanted = rows or found | truths
    paired = [name for name in sorted(wanted) if name in found and name in truths]
    if not paired:
        raise LabelError(
            f"no slide has both a result and a truth: results of {_some(found)}, truths of {_some(truths)}; name "
            "truths as their slides, as in <slide>.csv, or give a --sheet with the columns slide_id and truth"
        )
    patients, grouping = find_patients(paired, rows, patient)
    return Pairing(
        tuple(SlidePair(name, found[name], truths[name], regions.get(name), patients[name]) for name in paired),
        grouping,
        tuple(name for name in sorted(wanted) if name in found and name not in truths),
        tuple(name for name in sorted(wanted) if name not in found),
        tuple(name for name in sorted(found) if name not in wanted),
    )


def read_evaluation_sheet(path: Path) -> dict[str, dict[str, str]]:
    """Read the rows of a sheet by slide; the workflow's sheet can be used too, since other columns are ignored.

    Raises:
        SheetError: the sheet cannot be read, is empty, lacks a ``slide_id`` or contains a slide twice.
    """
    header, records = read_table(path)
    if "slide_id" not in header:
        raise SheetError(f"{path}: column 'slide_id' is missing (found {', '.join(header)}); add it")
    rows: dict[str, dict[str, str]] = {}
    for number, cells in records:
        row = dict(zip(header, cells, strict=False))
        if not row.get("slide_id"):
            raise SheetError(f"{path}, row {number}: has no slide_id; fill it in or remove the row")
        if row["slide_id"] in rows:
            raise SheetError(f"{path}, row {number}: slide_id '{row['slide_id']}' occurs twice; remove one")
        rows[row["slide_id"]] = row
    if not rows:
        raise SheetError(f"{path}: no slide in it; add a row per slide")
    return rows


def _by_slide(folder: Path | None, suffixes: tuple[str, ...], option: str) -> dict[str, Path]:
    if folder is None:
        return {}
    if not folder.is_dir():
        raise LabelError(
            f"{folder}: no such folder; to score a results folder, {option} names a folder of files <slide>.<suffix>"
        )
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        suffix = next((one for one in sorted(suffixes, key=len)[::-1] if path.name.lower().endswith(one)), None)
        if suffix is None or path.name.startswith("."):
            continue
        name = path.name[: -len(suffix)]
        if name in files:
            raise LabelError(f"{folder}: '{files[name].name}' and '{path.name}' are both slide '{name}'; keep one")
        files[name] = path
    return files


def _named_files(rows: dict[str, dict[str, str]], column: str, sheet: Path | None) -> dict[str, Path]:
    files = {name: sheet.parent / row[column] for name, row in rows.items() if row.get(column)}
    for name, path in files.items():
        if not path.is_file():
            raise SheetError(f"{sheet}: {column} of slide '{name}' is not a file ({path}); correct it")
    return files


def _some(names: dict[str, Path]) -> str:
    shown = sorted(names)[:3]
    return f"{', '.join(shown) or 'none'}{' ...' * (len(names) > 3)}"
