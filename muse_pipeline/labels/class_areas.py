"""Areas that have classes: one or more classes for all nuclei that a detector finds in a drawn
area.

An area labels only classes; positions come from the detector, and outlines are not used.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import shapely
from numpy import ndarray

from muse_pipeline.core.errors import LabelError
from muse_pipeline.core.types import Frame
from muse_pipeline.inference.detect import detect_picture
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.labels.labelled_image import AreaCount
from muse_pipeline.labels.nuclei_files import require_size
from muse_pipeline.nuclei.class_names import ClassWords, resolve_all
from muse_pipeline.nuclei.masks import label_image_to_polygons, read_mask
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.qupath.parse import GEOJSON_SUFFIXES
from muse_pipeline.qupath.read import read_geojson
from muse_pipeline.qupath.regions import are_called, union_of_areas
from muse_pipeline.tissue.stain import MacenkoFit

DETECTIONS = ("detection", "cell")  # types of QuPath objects that are nuclei, not areas


@dataclass(frozen=True, eq=False)
class ClassAreas:
    """The A areas of one label file that have classes of the model."""

    path: Path  # path of the file
    unit: str  # "feature" for GeoJSON, "value" for masks
    # (A,) for each area, the number of its GeoJSON feature or its value in the mask
    number: ndarray
    shape: ndarray  # (A,) valid polygons or multipolygons
    # indices of the classes that the nuclei of each area may have
    classes: tuple[tuple[int, ...], ...]

    def where(self, index: int) -> str:
        """The beginning of a message about an area: its file and number."""
        return f"{self.path}, {self.unit} {self.number[index]}"

    def change(self, function: Callable[[ndarray], ndarray]) -> ClassAreas:
        """The areas with ``function`` applied to their shapes (A,)."""
        return replace(self, shape=np.array(function(self.shape), object))

    def scale(self, scale: ndarray) -> ClassAreas:
        """The areas with positions multiplied by ``scale`` (x, y)."""
        return self.change(lambda shape: shapely.transform(shape, lambda xy: xy * scale))

    def shrink(self, margin_px: float) -> ClassAreas:
        """The areas without their borders; areas of different classes that overlap after that are
        rejected.
        """
        areas = self.change(lambda shape: shapely.buffer(shape, -margin_px))
        pairs = shapely.STRtree(areas.shape).query(areas.shape, predicate="intersects").T.tolist()
        for first, second in pairs:
            differ = first < second and set(self.classes[first]) != set(self.classes[second])
            if differ and shapely.intersection(*areas.shape[[first, second]]).area > 0:
                raise LabelError(
                    f"{self.where(first)}: overlaps with {self.unit} {self.number[second]} of a"
                    " different class; cut one of the two areas, or delete it"
                )
        return areas

    def owners(self, xy: ndarray) -> ndarray:
        """(N,) index of the area that contains each position (N, 2); -1 if none does."""
        owner = np.full(len(xy), -1)
        for index, shape in enumerate(self.shape):
            owner[shapely.intersects_xy(shape, *xy.T)] = index
        return owner

    def label(
        self, nuclei: Nuclei, owner: ndarray, names: tuple[str, ...], purity: float
    ) -> tuple[Nuclei, tuple[AreaCount, ...]]:
        """Return the nuclei in areas, with their expected class shares and labels, and their number
        in each area.

        ``owner`` (N,) is the index of each nucleus' area, -1 for none; ``purity`` the expected
        share of an area's classes.
        """
        nuclei, owner = nuclei[owner >= 0], owner[owner >= 0]
        shares = np.array(
            [expected_shares(classes, len(names), purity) for classes in self.classes], np.float32
        )
        label = np.array(
            [classes[0] if len(classes) == 1 else -1 for classes in self.classes], np.int32
        )
        words = [" or ".join(names[index] for index in classes) for classes in self.classes]
        counts = np.bincount(owner, minlength=len(words)).tolist()
        counts = tuple(
            AreaCount(words[index], self.where(index), n) for index, n in enumerate(counts)
        )
        return replace(nuclei, prob=shares[owner], label=label[owner]), counts


def expected_shares(classes: tuple[int, ...], n_classes: int, purity: float) -> ndarray:
    """(C,) expected class shares in an area: ``purity`` split equally among ``classes``, the rest
    among all others.
    """
    shares = np.full(n_classes, (1 - purity) / max(n_classes - len(classes), 1), np.float32)
    shares[list(classes)] = purity / len(classes)
    return shares


def read_labelled_areas(
    path: Path,
    words: ClassWords,
    size_px: tuple[int, int],
    offset_px: tuple[int, int],
    left_out: Collection[str],
) -> ClassAreas:
    """Read the areas of GeoJSON or of a mask, in px of a picture or slide of ``size_px`` = (width,
    height).

    ``offset_px`` (x, y) is added to positions in GeoJSON; annotations with a class or name in
    ``left_out`` are no areas.
    """
    if path.name.lower().endswith(GEOJSON_SUFFIXES):
        unit, (values, number, shape) = "feature", _read_drawn(path, offset_px, left_out)
    else:
        unit, (values, number, shape) = "value", _read_mask(path, size_px, "0" in words.class_map)
    classes = resolve_all(
        zip(values, number, strict=True),
        lambda area: words.indices(str(area[0]), f"{path}, {unit} {area[1]}"),
    )
    used = np.array([len(indices) > 0 for indices in classes], bool)
    for value, n, indices in zip(values, number, classes, strict=True):
        if len(indices) == len(words.classes) > 1:
            raise LabelError(
                f"{path}, {unit} {n}: class_map maps '{value}' to every class of the model, which"
                " labels none of its nuclei; name fewer classes, or null"
            )
    if not used.any():
        raise LabelError(
            f"{path}: has no area with a class that is used; draw one, or exclude its picture"
        )
    return ClassAreas(path, unit, number[used], shape[used], tuple(filter(None, classes)))


def _read_drawn(
    path: Path, offset_px: tuple[int, int], left_out: Collection[str]
) -> tuple[ndarray, ndarray, ndarray]:
    """Words (A,), numbers (A,) and shapes (A,) of the areas in GeoJSON."""
    objects = read_geojson(path, offset_px, tiles=False)
    is_area = (shapely.get_dimensions(objects.geometry) == 2) & ~np.isin(
        objects.object_type, DETECTIONS
    )
    objects = objects[is_area & ~are_called(objects, left_out)]
    if None in (words := objects.class_name.tolist()):
        number = objects.number[words.index(None)]
        raise LabelError(
            f"{path}, feature {number}: is an area without a class; set its class or delete it"
        )
    shapes = [union_of_areas(np.array([shape])) or shapely.Polygon() for shape in objects.geometry]
    return objects.class_name, objects.number, np.array(shapes, object)


def _read_mask(
    path: Path, size_px: tuple[int, int], with_zero: bool
) -> tuple[ndarray, ndarray, ndarray]:
    """Values (A,), twice, and shapes (A,) of the areas in a mask."""
    mask = read_mask(path)
    require_size(path, mask, size_px)
    values = np.unique(mask).astype(int)
    values = values[(values != 0) | with_zero]
    number = np.searchsorted(values, mask.astype(int)) + 1
    shapes = label_image_to_polygons(np.where(np.isin(mask, values), number, 0).astype(np.int32))
    # with exact pixel borders, shrinking takes ten times as long
    return values, values, shapely.simplify(shapes, 1.0)


class AreaDetector:
    """The detector that finds the nuclei in areas of pictures at ``mpp``; their ``n_rays`` rays are
    NaN.
    """

    def __init__(self, name: Path, mpp: float, n_rays: int):
        self.mpp, self.n_rays = mpp, n_rays
        self.predictor = Predictor(find_model(str(name)))
        self.predictor.refiner = None  # outlines are not used

    def find(self, pixels: ndarray, stain: MacenkoFit | None) -> Nuclei:
        """The nuclei (frame: window) that the detector finds in (h, w, 3) ``pixels``."""
        xy = detect_picture(self.predictor, pixels, self.mpp, stain).xy
        return Nuclei(xy, Frame.WINDOW, rays=np.full((len(xy), self.n_rays), np.nan, np.float32))
