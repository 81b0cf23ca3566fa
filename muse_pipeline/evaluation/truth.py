"""True nuclei of slides, and the regions in which they are complete."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from muse_pipeline.core.errors import GeoJSONError, LabelError
from muse_pipeline.core.geometry import repair_areas
from muse_pipeline.core.types import Frame
from muse_pipeline.labels.nuclei_files import (
    MASK_SUFFIXES,
    TABLE_SUFFIXES,
    read_drawn,
    read_points,
    require_size,
)
from muse_pipeline.nuclei.class_names import ClassWords
from muse_pipeline.nuclei.masks import label_image_to_polygons, read_label_image, read_mask, require_nuclei
from muse_pipeline.nuclei.rays import interior_centres
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.qupath.objects import list_counts
from muse_pipeline.qupath.parse import GEOJSON_SUFFIXES
from muse_pipeline.qupath.read import read_geojson
from muse_pipeline.qupath.regions import IGNORE, are_called, take_out_ignored, union_of_areas

SUFFIXES = (*TABLE_SUFFIXES, *GEOJSON_SUFFIXES, *MASK_SUFFIXES)
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
    """Read the truth in the format of its suffix: a table of points, GeoJSON, or an instance mask of level 0.

    For a model of one class, all classes of the truth are mapped to this class unless ``class_map`` is given.

    Args:
        path: file of the truth.
        classes: names of the classes, by label.
        mpp: (x, y) um per level-0 pixel.
        offset_px: level-0 position of the origin of a GeoJSON file.
        size_px: (width, height) of level 0, which a mask must have; None if unknown.
        class_map: a class of the model, several accepted classes, or None (not scored) for each class of the file;
            without a map, the file must use the names of the model or synonyms.
    """
    name = path.name.lower()
    if path.is_file() and not name.endswith(SUFFIXES):
        raise LabelError(f"{path}: not a file of ground truth; its name must end in {' or '.join(SUFFIXES)}")
    if name.endswith(MASK_SUFFIXES):
        return _read_mask(path, mpp, size_px)
    if name.endswith(GEOJSON_SUFFIXES):
        true = read_drawn(path, mpp, n_rays=1, offset_px=offset_px)
    else:
        true = read_points(path, ("x", "y", "class"), remedy="rename the columns; x and y are level-0 pixels")
    true.require_distinct(mpp)
    are_outlines = true.shapes is not None and (shapely.get_dimensions(true.shapes) == 2).all()
    if len(classes) == 1 and not class_map:
        indices = [(0,)] * len(true.nuclei)
    else:
        words = ClassWords(classes, class_map or {}, "rename it, or map it with --class-map")
        indices = true.resolve(words.indices, ())
    label = np.array([next(iter(one), -1) for one in indices], np.int32)
    accepted = None
    if any(len(one) > 1 for one in indices):
        accepted = np.array([np.isin(range(len(classes)), one) for one in indices])
    return Truth(replace(true.nuclei, label=label), true.shapes if are_outlines else None, true.area, accepted)


def _read_mask(path: Path, mpp: tuple[float, float], size_px: tuple[int, int] | None) -> Truth:
    """Read an instance mask, which has no classes."""
    mask = read_label_image(path)
    if size_px is not None:
        remedy = "give a mask of the whole slide at level 0, or outlines as GeoJSON"
        require_size(path, mask, size_px, "level 0 of the slide", remedy)
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
    """
    if path.name.lower().endswith(MASK_SUFFIXES):
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
