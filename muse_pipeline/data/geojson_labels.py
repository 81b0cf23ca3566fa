"""Nuclei and annotated regions from GeoJSON, as QuPath and its peers write it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import shapely

from muse_pipeline.data.annotations import Annotations, class_index
from muse_pipeline.data.label_source import LabelSource
from muse_pipeline.errors import GeoJSONError, LabelError
from muse_pipeline.nuclei.annotated_region import are_called, require_nucleus_size
from muse_pipeline.nuclei.geojson_reader import GeoJSONObjects, read_geojson
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.types import Frame


def read_annotated(
    path: Path,
    source: LabelSource,
    classes: tuple[str, ...],
    frame: Frame,
    mpp: tuple[float, float],
    n_rays: int,
    offset_px: tuple[int, int] = (0, 0),
) -> Annotations:
    """Read nuclei, which are points and polygons, and the regions around them.

    An object without a classification is a nucleus of unknown class. Of a multipoint or a multipolygon every part is
    one nucleus.

    Args:
        path: the file.
        source: gives the class map, the class of regions and what is to be passed over.
        classes: of the model.
        frame: of the positions, once the offset is added.
        mpp: (x, y) um per pixel of ``frame``.
        n_rays: rays per nucleus; points have unknown ones.
        offset_px: of QuPath's frame.

    Raises:
        LabelError: the file is broken, or a feature cannot be a nucleus or a region; its number is named.
    """
    try:
        objects = read_geojson(path, offset_px, tiles=False)
    except (GeoJSONError, OSError) as error:
        raise LabelError(str(error)) from error
    is_region, is_ignored = are_called(objects, (source.region_class,)), are_called(objects, source.ignore)
    drawn = objects[~is_region & ~is_ignored]
    labels = [_label(drawn, i, source, classes) for i in range(len(drawn))]
    parts = drawn.to_parts()
    require_nucleus_size(parts, mpp, source.region_class, "delete it or put its class under `ignore`")
    xy, rays = parts.measure(mpp, n_rays)
    nuclei = Nuclei(xy, frame, rays=rays, label=np.array(labels, np.int32)[parts.owner])
    return Annotations(path, nuclei, parts.number, "feature", _regions(objects[is_region]))


def _label(objects: GeoJSONObjects, index: int, source: LabelSource, classes: tuple[str, ...]) -> int:
    word = objects.class_name[index]
    where = f"{objects.path}, feature {objects.number[index]}"
    return -1 if word is None else class_index(word, source, classes, where)


def _regions(objects: GeoJSONObjects) -> np.ndarray:
    """The polygons of the regions."""
    path = objects.path
    for geometry, number in zip(objects.geometry, objects.number, strict=True):
        if geometry.geom_type not in {"Polygon", "MultiPolygon"} or geometry.is_empty:
            raise LabelError(f"{path}, feature {number}: a region must be a closed area; draw it again")
        if not geometry.is_valid:
            why = shapely.is_valid_reason(geometry)
            raise LabelError(f"{path}, feature {number}: a region whose lines cross ({why}); draw it again")
    return shapely.get_parts(objects.geometry)
