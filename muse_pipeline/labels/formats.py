"""Readers for the formats of label files: nuclei, each with its line or number in the file, and annotated regions."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from scipy.spatial import cKDTree

from muse_pipeline.core.coords import row_column_index_to_xy, xy_index_to_xy
from muse_pipeline.core.errors import GeoJSONError, LabelError, MuseWarning
from muse_pipeline.core.files import read_lines
from muse_pipeline.core.text import count_noun, decimal_point
from muse_pipeline.core.types import Frame
from muse_pipeline.labels.sources import LabelSource, split_unit
from muse_pipeline.nuclei.class_names import find_class, map_class, resolve_all
from muse_pipeline.nuclei.masks import label_image_to_nuclei, number_areas, read_label_image, read_mask, require_nuclei
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.qupath.read import GeoJSONObjects, read_geojson
from muse_pipeline.qupath.regions import are_called, remove_spikes, require_nucleus_size

SAME_UM, FEW_COPIES = 0.5, 0.01  # nuclei in the same square of this side are duplicates; accepted share of them


@dataclass(frozen=True, eq=False)
class Annotations:
    """The nuclei and annotated regions of one label file.

    Attributes:
        path: path of the file.
        nuclei: nuclei with rays (N, R) in um, NaN for points.
        numbers: (N,) int, the line, feature or instance number of each nucleus in the file.
        unit: meaning of ``numbers``: "line", "feature" or "instance".
        regions: (M,) shapely polygons around the annotated areas, in the frame of the nuclei; empty if there are none.
        made_in_viewer: True if the file was made in the viewer; regions without nuclei or tissue are then accepted.
    """

    path: Path
    nuclei: Nuclei
    numbers: np.ndarray
    unit: str
    regions: np.ndarray
    made_in_viewer: bool = False

    def where(self, index: int) -> str:
        """The beginning of a message about a nucleus: its file and number."""
        return f"{self.path}, {self.unit} {self.numbers[index]}"

    def require_within(self, size_px: tuple[int, int], what: str) -> None:
        """Reject nuclei outside a picture or slide of ``size_px`` = (width, height).

        Nuclei less than a pixel outside are moved inside, in place, with a warning.

        Raises:
            LabelError: a nucleus is at least a pixel outside; the message names its line, feature or instance.
        """
        # Pixels are half-open, so the largest position inside is the largest float below the size.
        inside = self.nuclei.xy.clip(0, np.nextafter(size_px, 0))
        distance = np.abs(self.nuclei.xy - inside).max(1, initial=0)
        if n_moved := int(((distance > 1e-6) & (distance < 1)).sum()):
            n = count_noun(n_moved, "nucleus lies", "nuclei lie")
            warnings.warn(f"{self.path}: {n} less than a pixel outside {what}; moved inside", MuseWarning, stacklevel=2)
        outside = np.flatnonzero(distance >= 1)
        if len(outside):
            x, y = self.nuclei.xy[outside[0]]
            raise LabelError(
                f"{self.where(outside[0])}: ({x:g}, {y:g}) lies outside {what} of {size_px[0]} x {size_px[1]} px"
                f"{_others(outside)}; correct it, or the order of coordinates in `format`"
            )
        self.nuclei.xy = inside

    def require_regions(self, source: LabelSource, what: str) -> None:
        """Reject a file without an annotated region; ``what`` names its picture or slide in the message.

        Raises:
            LabelError: the file has no region.
        """
        if not len(self.regions):
            raise LabelError(
                f"{self.path}: has no annotation '{source.region_class}' around the part of {what} that was annotated; "
                "draw one"
            )

    def in_regions(self, source: LabelSource) -> np.ndarray:
        """(N,) bool: True for nuclei in a region; True for all if there is no region.

        Raises:
            LabelError: a nucleus is outside all regions, and ``source.outside`` is "refuse".
        """
        if not len(self.regions):
            return np.ones(len(self.nuclei), bool)
        area = shapely.union_all(self.regions)
        shapely.prepare(area)
        inside = shapely.intersects_xy(area, *self.nuclei.xy.T)
        outside = np.flatnonzero(~inside)
        if len(outside) and source.outside == "refuse":
            raise LabelError(
                f"{self.where(outside[0])}: lies outside every '{source.region_class}' annotation{_others(outside)}; "
                "draw the region around it, delete it, or set `outside: leave out`"
            )
        return inside


def class_index(word: str, source: LabelSource, classes: tuple[str, ...], where: str) -> int:
    """Index of the class that a word in a label file stands for; -1 if nuclei of this class are not used.

    If ``classes`` is empty, only positions are used, and the result is always -1.

    Raises:
        LabelError: as in ``class_set``, or the class map maps the word to several classes.
    """
    if not classes:
        return -1
    indices = class_set(word, source, classes, where)
    if len(indices) > 1:
        raise LabelError(
            f"{where}: class_map maps '{word}' to several classes, which only format 'areas' allows; name one, or null"
        )
    return next(iter(indices), -1)


def class_set(word: str, source: LabelSource, classes: tuple[str, ...], where: str) -> tuple[int, ...]:
    """Indices of the classes that a word in a label file stands for; empty if nuclei with this word are not used.

    Without a class map, the word must be a class name or a synonym (``nuclei.class_names``).

    Raises:
        LabelError: the word is not in the class map, or is mapped to something that is not a class of the model; or
            there is no map, and the word is not a class name or synonym.
    """
    if not source.class_map:
        return (find_class(word, classes, where, "correct it, or map it with `class_map`"),)
    return map_class(word, source.class_map, classes, where)


def _others(found: np.ndarray) -> str:
    return f" (so do {len(found) - 1} more)" if len(found) > 1 else ""


def read_annotated(
    path: Path,
    source: LabelSource,
    classes: tuple[str, ...],
    frame: Frame,
    mpp: tuple[float, float],
    n_rays: int,
    offset_px: tuple[int, int] = (0, 0),
) -> Annotations:
    """Read nuclei drawn as points or polygons, and the regions around them.

    An object without a classification is a nucleus of unknown class. Every part of a multipoint or multipolygon is a
    separate nucleus.

    Args:
        path: path of the file.
        source: source with the class map, the name of the region class and the classes to ignore.
        classes: names of the model's classes.
        frame: frame of the positions after the offset is added.
        mpp: (x, y) um per pixel of ``frame``.
        n_rays: number of rays per nucleus; rays of points are NaN.
        offset_px: (x, y) offset added to the coordinates in the file.

    Raises:
        LabelError: the file is broken, or a feature has an unknown class or is neither a nucleus nor a region; the
            message has the number of the feature.
    """
    try:
        objects = read_geojson(path, offset_px, tiles=False)
    except (GeoJSONError, OSError) as error:
        raise LabelError(str(error)) from error
    is_region, is_ignored = are_called(objects, (source.region_class,)), are_called(objects, source.ignore)
    drawn = objects[~is_region & ~is_ignored]
    labels = resolve_all(range(len(drawn)), lambda index: _label(drawn, index, source, classes))
    parts = drawn.to_parts()
    require_nucleus_size(parts, mpp, source.region_class, "delete it or add its class to `ignore`")
    xy, rays = parts.measure(mpp, n_rays)
    nuclei = Nuclei(xy, frame, rays=rays, label=np.array(labels, np.int32)[parts.owner])
    return Annotations(path, nuclei, parts.number, "feature", _regions(objects[is_region]))


def _label(objects: GeoJSONObjects, index: int, source: LabelSource, classes: tuple[str, ...]) -> int:
    word = objects.class_name[index]
    where = f"{objects.path}, feature {objects.number[index]}"
    return -1 if word is None else class_index(word, source, classes, where)


def _regions(objects: GeoJSONObjects) -> np.ndarray:
    """Split regions into polygons; reject a region that is not an area or whose lines cross."""
    path = objects.path
    geometries = [remove_spikes(geometry) for geometry in objects.geometry]
    for geometry, number in zip(geometries, objects.number, strict=True):
        if geometry.geom_type not in {"Polygon", "MultiPolygon"} or geometry.is_empty:
            raise LabelError(f"{path}, feature {number}: a region must be a closed area; draw it again")
        if not geometry.is_valid:
            why = shapely.is_valid_reason(geometry)
            raise LabelError(f"{path}, feature {number}: the lines of this region cross ({why}); draw it again")
    return shapely.get_parts(np.array(geometries, object))


TO_XY = {"row column class": row_column_index_to_xy, "x y class": xy_index_to_xy}


def read_text(
    path: Path, source: LabelSource, classes: tuple[str, ...], frame: Frame, n_rays: int, order: str | None = None
) -> Annotations:
    """Read a text file with one nucleus per line, after an optional header.

    Values are separated by tabs, semicolons, commas or spaces: the first of these that the first line contains. With
    semicolons, numbers may have decimal commas.

    Args:
        path: path of the file.
        source: source with the format and the class map.
        classes: names of the model's classes.
        frame: frame of the positions; pixels in the file are counted from 0.
        n_rays: number of rays per nucleus; their lengths are NaN.
        order: order of the columns; by default the source's format.

    Raises:
        LabelError: the file is not text, a line has the wrong number of values, a position that is not a number or an
            unknown class, or the header lacks a column of the format or gives positions in um.
    """
    order = order or source.format
    lines = [(number, line) for number, line in enumerate(read_lines(path), 1) if line.strip()]
    separator = next((mark for mark in "\t;," if lines and mark in lines[0][1]), None)
    columns, n_columns = (0, 1, 2), 3
    indices, words, numbers = [], [], []
    for number, line in lines:
        cells, where = [cell.strip() for cell in line.split(separator)], f"{path}, line {number}"
        if (number, line) == lines[0] and not _is_number(decimal_point(cells[0], separator)):
            columns, n_columns = _header_columns(cells, order, where), len(cells)
            continue
        if len(cells) != n_columns:
            raise LabelError(f"{where}: expected {_expected(order, n_columns)}, found '{line[:80]}'; correct it")
        first, second, word = (cells[column] for column in columns)
        first, second = decimal_point(first, separator), decimal_point(second, separator)
        if not (_is_number(first) and _is_number(second)):
            raise LabelError(f"{where}: expected {order}, found '{line[:80]}'; the first two must be numbers")
        indices.append((float(first), float(second)))
        words.append((word, where))
        numbers.append(number)
    labels = resolve_all(words, lambda pair: class_index(pair[0], source, classes, pair[1]))
    nuclei = Nuclei(
        TO_XY[order](np.array(indices, float).reshape(-1, 2)),
        frame,
        rays=np.full((len(labels), n_rays), np.nan, np.float32),
        label=np.array(labels, np.int32),
    )
    return Annotations(path, nuclei, np.array(numbers, int), "line", np.zeros(0, object))


def _header_columns(cells: list[str], order: str, where: str) -> tuple[int, ...]:
    """Indices of the columns named in ``order`` in a header, which must contain each of them once."""
    names, needed = [split_unit(cell)[0] for cell in cells], order.split()
    if in_um := [cell for cell in cells if split_unit(cell)[1] == "um" and split_unit(cell)[0] in needed]:
        raise LabelError(f"{where}: positions are in um ({', '.join(in_um)}); give them in pixels")
    if any(names.count(name) != 1 for name in needed):
        raise LabelError(
            f"{where}: found '{' '.join(cells)[:80]}', expected {order}; name each of these columns once in a header, "
            "or begin with the first nucleus"
        )
    return tuple(names.index(name) for name in needed)


def _expected(order: str, n_columns: int) -> str:
    return order if n_columns == 3 else f"{n_columns} values, as in the header"


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


SPECK_UM2 = 1.25  # smaller areas of a mask are ignored as specks
POINT_TO_INSTANCE_UM = 2.0  # maximum distance from the centroid of an instance to the point that gives its class


def read_instances(path: Path, size_px: tuple[int, int], mpp: float, n_rays: int) -> Annotations:
    """Read a mask (PNG, TIFF or NPY) in which every nucleus has its own number and 0 is background.

    Args:
        path: path of the mask.
        size_px: (width, height) of the mask's picture.
        mpp: um per pixel.
        n_rays: number of rays per nucleus.

    Returns:
        Annotations without classes.

    Raises:
        LabelError: the file cannot be read, is not a mask or differs in size from its picture, or several nuclei share
            a number.
    """
    mask = read_label_image(path, "number them, or use `format: masks` if they do not touch")
    require_nuclei(path, mask, (mpp, mpp))
    return measure_instances(path, mask, size_px, mpp, n_rays)


def read_masks(path: Path, size_px: tuple[int, int], mpp: float, n_rays: int) -> Annotations:
    """Read a mask (PNG, TIFF or NPY) with one value besides 0; its connected areas, except specks, are the nuclei.

    Args:
        path: path of the mask.
        size_px: (width, height) of the mask's picture.
        mpp: um per pixel.
        n_rays: number of rays per nucleus.

    Raises:
        LabelError: the file cannot be read, is not a mask, differs in size from its picture or has several values
            besides 0, or an area is larger than a nucleus.
    """
    mask = read_mask(path)
    require_size(path, mask, size_px)
    values = np.unique(mask[mask != 0])
    if len(values) > 1:
        raise LabelError(
            f"{path}: has {len(values)} values besides 0; use `format: instances` if they number nuclei, else make the "
            "mask black and white"
        )
    areas = number_areas(mask, SPECK_UM2 / mpp**2)
    require_nuclei(path, areas, (mpp, mpp))
    return measure_instances(path, areas, size_px, mpp, n_rays)


def measure_instances(path: Path, mask: np.ndarray, size_px: tuple[int, int], mpp: float, n_rays: int) -> Annotations:
    """Convert an integer mask (h, w), read from ``path``, into annotations, as in ``read_instances``.

    Raises:
        LabelError: the mask differs in size from its picture.
    """
    require_size(path, mask, size_px)
    nuclei = label_image_to_nuclei(mask, (mpp, mpp), n_rays)
    numbers = np.unique(mask)
    return Annotations(path, nuclei, numbers[numbers > 0], "instance", np.zeros(0, object))


def require_size(path: Path, mask: np.ndarray, size_px: tuple[int, int]) -> None:
    """Reject a mask (h, w) whose size differs from that of its picture (width, height).

    Raises:
        LabelError: the sizes differ.
    """
    if mask.shape[::-1] != size_px:
        raise LabelError(
            f"{path}: is {mask.shape[1]} x {mask.shape[0]} px, but its picture is {size_px[0]} x "
            f"{size_px[1]} px; give a mask of the same size"
        )


def require_distinct(path: Path, xy: np.ndarray, mpp: tuple[float, float]) -> None:
    """Reject a file with many duplicate nuclei.

    Args:
        path: path of the file, for the message.
        xy: (N, 2) positions of the nuclei.
        mpp: (x, y) um per pixel.

    Raises:
        LabelError: at least two nuclei, and more than 1 % of all, each share a 0.5 um square with an earlier one.
    """
    _, first = np.unique(xy * mpp // SAME_UM, axis=0, return_index=True)
    copies = np.delete(np.arange(len(xy)), first)
    if len(copies) > max(1, FEW_COPIES * len(xy)):
        x, y = xy[copies[0]]
        raise LabelError(
            f"{path}: {len(copies):,} of its {len(xy):,} nuclei are duplicates, the first at x {x:.1f}, y {y:.1f}; "
            "delete them (an export may have been pasted twice)"
        )


def median_diameter_px(path: Path) -> float:
    """Diameter, in px, of a circle with the median area of the nuclei in a mask.

    Raises:
        LabelError: the file cannot be read, is not a mask or has no nucleus.
    """
    numbers, areas = np.unique(read_label_image(path), return_counts=True)
    areas = areas[numbers > 0]
    if not len(areas):
        raise LabelError(f"{path}: has no nucleus to which diameter_um could apply; exclude the picture")
    return float(np.sqrt(4 * np.median(areas) / np.pi))


def name_instances(instances: Annotations, points: Annotations, mpp: float) -> None:
    """Set the class of each instance, in place, to that of the nearest point within 2 um of its centroid, or to -1.

    Raises:
        LabelError: there are instances and points, but no point is within 2 um of a centroid.
    """
    nuclei = instances.nuclei
    if not len(nuclei) or not len(points.nuclei):
        return
    distance, nearest = cKDTree(points.nuclei.xy).query(nuclei.xy)
    close = distance * mpp <= POINT_TO_INSTANCE_UM
    if not close.any():
        raise LabelError(
            f"{points.path}: no point lies within {POINT_TO_INSTANCE_UM:g} um of a nucleus in {instances.path.name}; "
            "does the file belong to a different picture, or are x and y exchanged?"
        )
    nuclei.label = np.where(close, points.nuclei.label[nearest], -1).astype(np.int32)
