"""Nuclei in files of people and other programs: tables of points, GeoJSON, and masks.

Labels for training, ground truth for evaluation, imported proposals and drawn partners are all read
here.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import shapely
from numpy import ndarray
from scipy.spatial import cKDTree
from shapely.geometry.base import BaseGeometry

from muse_pipeline.core.coords import row_column_index_to_xy, xy_index_to_xy
from muse_pipeline.core.errors import LabelError, MuseWarning
from muse_pipeline.core.files import iterate_rows
from muse_pipeline.core.text import count_noun, decimal_point
from muse_pipeline.core.types import Frame
from muse_pipeline.labels.region_windows import fill_polygon
from muse_pipeline.nuclei.class_names import resolve_all
from muse_pipeline.nuclei.masks import (
    LARGEST_NUCLEUS_UM2,
    label_image_to_nuclei,
    number_areas,
    read_label_image,
    read_mask,
    require_nuclei,
)
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.qupath.parse import IGNORED, REGION
from muse_pipeline.qupath.read import GeoJSONObjects, read_geojson
from muse_pipeline.qupath.regions import are_called, remove_spikes, union_of_areas

TABLE_SUFFIXES = (".csv", ".tsv", ".csv.gz")
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".npy")
# nuclei in the same square of this side are duplicates; accepted share of them
SAME_UM, FEW_COPIES = 0.5, 0.01
Meaning = TypeVar("Meaning")


@dataclass(frozen=True, eq=False)
class FileNuclei:
    """The N nuclei of one file."""

    path: Path  # path of the file
    # nuclei with rays in um, NaN for points; their labels are unknown until ``with_labels``
    nuclei: Nuclei
    words: Sequence[str | None]  # N class names; None or "" for a nucleus without a class
    # (N,) int, the line, feature or instance number of each nucleus in the file
    numbers: ndarray
    unit: str  # meaning of ``numbers``: "line", "feature" or "instance"
    # union of the regions in which all nuclei are in the file, in px of the nuclei; None if none is
    # drawn
    area: BaseGeometry | None = None
    # (N,) points and polygons of a GeoJSON file; None for other files
    shapes: ndarray | None = None

    def where(self, index: int) -> str:
        """The beginning of a message about a nucleus: its file and number."""
        return f"{self.path}, {self.unit} {self.numbers[index]}"

    def resolve(self, find: Callable[[str, str], Meaning], unknown: Meaning) -> list[Meaning]:
        """The meaning of each nucleus' class name, which ``find`` returns for a name and its first
        ``where``.
        """
        first = {}
        for index, word in enumerate(self.words):
            if word is not None:
                first.setdefault(word, index)
        meanings = resolve_all(first, lambda word: find(word, self.where(first[word])))
        meaning_of = {None: unknown, **dict(zip(first, meanings, strict=True))}
        return [meaning_of[word] for word in self.words]

    def with_labels(self, label: Sequence[int]) -> FileNuclei:
        """The nuclei with the class indices ``label`` (N,)."""
        return replace(self, nuclei=replace(self.nuclei, label=np.array(label, np.int32)))

    def fill_area(self, size_px: tuple[int, int]) -> ndarray | None:
        """(h, w) bool: the pixels of the area in a picture of ``size_px`` = (width, height); None
        without an area.
        """
        if self.area is None:
            return None
        pixels = fill_polygon(self.area, (0, 0), size_px)
        if not pixels.any():
            raise LabelError(
                f"{self.path}: its regions contain no pixel of the picture; do they belong to it?"
            )
        return pixels

    def within(self, size_px: tuple[int, int], what: str) -> FileNuclei:
        """Reject nuclei outside a picture or slide of ``size_px`` = (width, height), called
        ``what`` in messages.

        Nuclei less than a pixel outside are moved inside, with a warning.
        """
        # Pixels are half-open, so the largest position inside is the largest float below the size.
        inside = self.nuclei.xy.clip(0, np.nextafter(size_px, 0))
        distance = np.abs(self.nuclei.xy - inside).max(1, initial=0)
        if n_moved := int(((distance > 1e-6) & (distance < 1)).sum()):
            n = count_noun(n_moved, "nucleus lies", "nuclei lie")
            warnings.warn(
                f"{self.path}: {n} less than a pixel outside {what}; moved inside",
                MuseWarning,
                stacklevel=2,
            )
        self.reject(
            distance >= 1,
            f"outside {what} of {size_px[0]} x {size_px[1]} px",
            "correct it, or the order of coordinates in `format`",
        )
        return replace(self, nuclei=replace(self.nuclei, xy=inside))

    def reject(self, outside: ndarray, where: str, remedy: str) -> None:
        """Reject nuclei that are ``outside`` (N,) an area, which ``where`` describes in the
        message.
        """
        if outside.any():
            first = int(outside.argmax())
            others = int(outside.sum()) - 1
            x, y = self.nuclei.xy[first]
            more = f" (so do {others} more)" if others else ""
            raise LabelError(f"{self.where(first)}: ({x:g}, {y:g}) lies {where}{more}; {remedy}")

    def require_distinct(self, mpp: tuple[float, float]) -> None:
        """Reject a file in which over 1 % of the nuclei, and more than one, share a 0.5 um square
        with another one.
        """
        xy = self.nuclei.xy
        _, first = np.unique(xy * mpp // SAME_UM, axis=0, return_index=True)
        copies = np.delete(np.arange(len(xy)), first)
        if len(copies) > max(1, FEW_COPIES * len(xy)):
            x, y = xy[copies[0]]
            raise LabelError(
                f"{self.path}: {len(copies):,} of its {len(xy):,} nuclei are duplicates, the first"
                f" at x {x:.1f}, y {y:.1f}; delete them (an export may have been pasted twice)"
            )


def read_points(
    path: Path,
    columns: Sequence[str],
    frame: Frame = Frame.LEVEL0,
    n_rays: int = 0,
    unit: str = "px",
    remedy: str = "name each of these columns once",
    may_lack_header: bool = False,
) -> FileNuclei:
    """Read a table with a nucleus per line, and columns separated by tabs, semicolons, commas or
    blanks.

    With semicolons, numbers may have decimal commas. If the file has no classes, a column ``score``
    is read too.

    Args:
        path: path of the table, which may be compressed with gzip.
        columns: names of the columns of the positions and, unless the file has no classes, of the
            class; they may be capitalised and have a unit.
        frame: frame of the positions.
        n_rays: number of rays per nucleus; their lengths are NaN.
        unit: "um" to accept positions in um.
        remedy: end of the message about a missing column.
        may_lack_header: True to accept exactly these columns without a header.
    """
    indices = None
    header = list(columns)
    has_classes = len(columns) > 2
    has_scores = False
    numbers = []
    xy = []
    words = []
    scores = []
    for number, row, separator in iterate_rows(path):
        if indices is None and may_lack_header and math.isfinite(_to_number(row[0], separator)):
            indices = list(range(len(columns)))
        elif indices is None:
            header = row
            indices = _find_columns(row, columns, unit, f"{path}, line {number}", remedy)
            has_scores = not has_classes and SCORE in header
            continue
        if len(row) < len(header) or any(row[len(header) :]):
            n, names = len(header), ", ".join(header)
            raise LabelError(
                f"{path}, line {number}: has {len(row)} values, expected {n}: {names}; correct it"
            )
        xy.append([_to_number(row[index], separator) for index in indices[:2]])
        if math.isnan(sum(xy[-1])):
            axis = 0 if math.isnan(xy[-1][0]) else 1
            what = f"{columns[axis]} is '{row[indices[axis]][:40]}', which is not a number"
            raise LabelError(f"{path}, line {number}: {what}; correct it")
        words.append(row[indices[2]] if has_classes else None)
        scores.append(_to_number(row[header.index(SCORE)], separator) if has_scores else 1.0)
        numbers.append(number)
    if indices is None and not may_lack_header:
        names = ", ".join(columns)
        raise LabelError(f"{path}: is empty; expected a table with the columns {names}")
    rays = np.full((len(numbers), n_rays), np.nan, np.float32)
    return FileNuclei(
        path, Nuclei(xy, frame, rays=rays, score=scores), words, np.array(numbers, int), "line"
    )


SCORE = "score"
TO_XY = {"row column class": row_column_index_to_xy, "x y class": xy_index_to_xy}


def read_index_table(path: Path, order: str, frame: Frame, n_rays: int) -> FileNuclei:
    """Read a table of pixel indices, counted from 0, whose columns have the ``order`` of a key of
    ``TO_XY``.
    """
    remedy = "name each of these columns once in a header, or begin with the first nucleus"
    table = read_points(path, order.split(), frame, n_rays, remedy=remedy, may_lack_header=True)
    return replace(table, nuclei=replace(table.nuclei, xy=TO_XY[order](table.nuclei.xy)))


def _find_columns(
    header: list[str], columns: Sequence[str], unit: str, where: str, remedy: str
) -> list[int]:
    """Indices of columns in a header; exact names take precedence over names in other letters or
    with a unit.
    """
    names, units = zip(*map(split_unit, header), strict=True)
    indices = []
    for column in columns:
        exact = [i for i, cell in enumerate(header) if cell == column]
        matches = exact or [i for i, name in enumerate(names) if name == column.lower()]
        if len(matches) != 1:
            cells = ", ".join(header[:8]) + (", ..." if len(header) > 8 else "")
            if any(name.startswith("centroid x") for name in names):
                remedy = "instead of positions from QuPath, export GeoJSON"
            raise LabelError(
                f"{where}: found the columns {cells}, expected {', '.join(columns)}; {remedy}"
            )
        indices += matches
    if in_um := [header[index] for index in indices[:2] if units[index] == "um" != unit]:
        raise LabelError(f"{where}: positions are in um ({', '.join(in_um)}); give them in pixels")
    return indices


def split_unit(name: str) -> tuple[str, str]:
    """Split a column's heading into its name, in lower case, and unit ("px", "um" or ""): "X [px]"
    -> "x", "px".
    """
    whole = name.strip().lower()
    for unit, words in {"px": ("px", "pixel", "pixels"), "um": ("um", "µm", "μm")}.items():
        for word in words:
            base = whole.rstrip(" ])").removesuffix(word)
            if base.endswith((" ", "_", "[", "(")) and base.strip(" _[("):
                return base.rstrip(" _[("), unit
    return whole, ""


def _to_number(cell: str, separator: str | None) -> float:
    """The finite number in a cell; NaN if there is none."""
    try:
        number = float(decimal_point(cell, separator))
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan


class ObjectRules(NamedTuple):
    """The meaning of objects in GeoJSON."""

    # class or name of annotations around areas in which all nuclei are in the file
    region_class: str = REGION
    ignored: Collection[str] = IGNORED  # classes and names of annotations that are not nuclei
    repairs_regions: bool = True  # True to repair regions whose lines cross, False to reject them
    # True to read tiles too, and to accept detections of any size: a detected clump is one nucleus
    by_program: bool = False


DRAWN_IN_QUPATH = ObjectRules()


def read_drawn(
    path: Path,
    mpp: tuple[float, float],
    n_rays: int,
    frame: Frame = Frame.LEVEL0,
    offset_px: tuple[int, int] = (0, 0),
    rules: ObjectRules = DRAWN_IN_QUPATH,
) -> FileNuclei:
    """Read points and polygons of GeoJSON, each part of which is a nucleus, and the regions around
    them.

    ``mpp`` (x, y) is that of the file; ``offset_px`` (x, y) is added to its positions, which are
    then in ``frame``. Rays of points are NaN.
    """
    objects = read_geojson(path, offset_px, tiles=rules.by_program)
    is_region = are_called(objects, (rules.region_class,))
    area = _join_regions(objects[is_region], rules.repairs_regions)
    drawn = objects[~is_region & ~are_called(objects, rules.ignored)]
    parts = drawn.to_parts()
    is_large = shapely.area(parts.geometry) * np.prod(mpp) > LARGEST_NUCLEUS_UM2
    if rules.by_program:
        is_large &= drawn.object_type[parts.owner] == "annotation"
    parts.reject(
        is_large,
        f"covers more than the {LARGEST_NUCLEUS_UM2:,.0f} um2 of any nucleus; give it the class"
        f" '{rules.region_class}' if it bounds what was annotated, else delete it or give it the"
        " class 'Ignore'",
    )
    xy, rays = parts.measure(mpp, n_rays)
    nuclei = Nuclei(xy, frame, rays=rays)
    return FileNuclei(
        path, nuclei, drawn.class_name[parts.owner], parts.number, "feature", area, parts.geometry
    )


def _join_regions(objects: GeoJSONObjects, repairs: bool) -> BaseGeometry | None:
    """The union of regions; None if there are none."""
    regions = list(map(remove_spikes, objects.geometry))
    for region, number in zip(regions, objects.number, strict=True):
        if shapely.get_dimensions(region) < 2:
            raise LabelError(
                f"{objects.path}, feature {number}: a region must be a closed area; draw it again"
            )
        if not (region.is_valid or repairs):
            why = shapely.is_valid_reason(region)
            raise LabelError(
                f"{objects.path}, feature {number}: the lines of this region cross ({why}); draw it"
                " again"
            )
    return union_of_areas(np.array(regions, object)) if regions else None


SPECK_UM2 = 1.25  # smaller areas of a mask are ignored as specks
# maximum distance from the centroid of an instance to the point that gives its class
POINT_TO_INSTANCE_UM = 2.0


def read_instances(path: Path, size_px: tuple[int, int], mpp: float, n_rays: int) -> FileNuclei:
    """Read a mask of a picture of ``size_px`` = (width, height), in which every nucleus has its own
    number.
    """
    mask = read_label_image(path, "number them, or use `format: masks` if they do not touch")
    require_size(path, mask, size_px)
    require_nuclei(path, mask, (mpp, mpp))
    return measure_instances(path, mask, mpp, n_rays)


def read_masks(path: Path, size_px: tuple[int, int], mpp: float, n_rays: int) -> FileNuclei:
    """Read a mask with one value besides 0; its connected areas, except specks, are the nuclei."""
    mask = read_mask(path)
    require_size(path, mask, size_px)
    values = np.unique(mask[mask != 0])
    if len(values) > 1:
        raise LabelError(
            f"{path}: has {len(values)} values besides 0; use `format: instances` if they number"
            " nuclei, else make the mask black and white"
        )
    areas = number_areas(mask, SPECK_UM2 / mpp**2)
    require_nuclei(path, areas, (mpp, mpp))
    return measure_instances(path, areas, mpp, n_rays)


def measure_instances(path: Path, mask: ndarray, mpp: float, n_rays: int) -> FileNuclei:
    """The nuclei of an instance mask (h, w), read from ``path``."""
    nuclei = label_image_to_nuclei(mask, (mpp, mpp), n_rays)
    numbers = np.unique(mask)
    return FileNuclei(path, nuclei, [None] * len(nuclei), numbers[numbers > 0], "instance")


def require_size(
    path: Path,
    mask: ndarray,
    size_px: tuple[int, int],
    owner: str = "its picture",
    remedy: str = "give a mask of the same size",
) -> None:
    """Reject a mask (h, w) whose size differs from that of its ``owner`` (width, height)."""
    if mask.shape[::-1] != tuple(size_px):
        raise LabelError(
            f"{path}: is {mask.shape[1]} x {mask.shape[0]} px, but {owner} is {size_px[0]} x"
            f" {size_px[1]} px; {remedy}"
        )


def median_diameter_px(path: Path) -> float:
    """Diameter, in px, of a circle with the median area of the nuclei in an instance mask."""
    numbers, areas = np.unique(read_label_image(path), return_counts=True)
    areas = areas[numbers > 0]
    if not len(areas):
        raise LabelError(
            f"{path}: has no nucleus to which diameter_um could apply; exclude the picture"
        )
    return float(np.sqrt(4 * np.median(areas) / np.pi))


def name_instances(instances: FileNuclei, points: FileNuclei, mpp: float) -> FileNuclei:
    """Give each instance the label of the nearest point within 2 um of its centroid, or -1 if there
    is none.
    """
    if not len(instances.nuclei) or not len(points.nuclei):
        return instances
    distance, nearest = cKDTree(points.nuclei.xy).query(instances.nuclei.xy)
    is_close = distance * mpp <= POINT_TO_INSTANCE_UM
    if not is_close.any():
        raise LabelError(
            f"{points.path}: no point lies within {POINT_TO_INSTANCE_UM:g} um of a nucleus in"
            f" {instances.path.name}; does the file belong to a different picture, or are x and y"
            " exchanged?"
        )
    return instances.with_labels(np.where(is_close, points.nuclei.label[nearest], -1))
