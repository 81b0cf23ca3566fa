"""Nuclei and annotated regions from GeoJSON, as QuPath and its peers write it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import shapely

from muse_pipeline.data.annotations import Annotations, class_index
from muse_pipeline.data.label_source import LabelSource
from muse_pipeline.errors import GeoJSONError, LabelError
from muse_pipeline.nuclei.annotated_region import LARGEST_NUCLEUS_UM2, are_called
from muse_pipeline.nuclei.geojson_reader import GeoJSONObjects, read_geojson
from muse_pipeline.nuclei.rays import polygons_to_rays
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.types import Frame

_POINT, _POLYGON = shapely.GeometryType.POINT, shapely.GeometryType.POLYGON


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
        objects = read_geojson(path, offset_px)
    except (GeoJSONError, OSError) as error:
        raise LabelError(str(error)) from error
    is_region, is_ignored = are_called(objects, (source.region_class,)), are_called(objects, source.ignore)
    chosen = np.flatnonzero(~is_region & ~is_ignored)
    labels = [_label(objects, i, path, source, classes) for i in chosen]
    parts, owner = shapely.get_parts(objects.geometry[chosen], return_index=True)
    places = objects.number[chosen][owner]
    xy, rays = _measure(parts, places, path, source, mpp, n_rays)
    nuclei = Nuclei(xy, frame, rays=rays, label=np.array(labels, np.int32)[owner])
    return Annotations(path, nuclei, places, "feature", _regions(objects, is_region, path))


def _label(objects: GeoJSONObjects, index: int, path: Path, source: LabelSource, classes: tuple[str, ...]) -> int:
    word = objects.class_name[index]
    return -1 if word is None else class_index(word, source, classes, f"{path}, feature {objects.number[index]}")


def _measure(
    parts: np.ndarray, places: np.ndarray, path: Path, source: LabelSource, mpp: tuple[float, float], n_rays: int
) -> tuple[np.ndarray, np.ndarray]:
    """Centres (N, 2) in pixels and rays (N, n_rays) in um of points and polygons."""
    kind = shapely.get_type_id(parts)
    is_polygon = kind == _POLYGON
    area_um2 = shapely.area(parts) * np.prod(mpp)
    for wrong, what in (
        (shapely.is_empty(parts), "is empty; delete it"),
        (~is_polygon & (kind != _POINT), "is neither a point nor a polygon; delete it or draw it as one"),
        (is_polygon & (area_um2 == 0), "is a polygon without an area; delete it or draw it again"),
        (
            area_um2 > LARGEST_NUCLEUS_UM2,
            f"covers more than the {LARGEST_NUCLEUS_UM2:,.0f} um2 of any nucleus; give it the class "
            f"'{source.region_class}' if it bounds what was annotated, else delete it or put its class under `ignore`",
        ),
    ):
        if wrong.any():
            raise LabelError(f"{path}, feature {places[wrong.argmax()]}: {what}")
    xy = np.zeros((len(parts), 2))
    rays = np.full((len(parts), n_rays), np.nan, np.float32)
    xy[is_polygon], rays[is_polygon] = polygons_to_rays(shapely.make_valid(parts[is_polygon]), n_rays, mpp)
    xy[~is_polygon] = shapely.get_coordinates(parts[~is_polygon])
    return xy, rays


def _regions(objects: GeoJSONObjects, is_region: np.ndarray, path: Path) -> np.ndarray:
    """The polygons of the regions."""
    for geometry, number in zip(objects.geometry[is_region], objects.number[is_region], strict=True):
        if geometry.geom_type not in {"Polygon", "MultiPolygon"} or geometry.is_empty:
            raise LabelError(f"{path}, feature {number}: a region must be a closed area; draw it again")
        if not geometry.is_valid:
            why = shapely.is_valid_reason(geometry)
            raise LabelError(f"{path}, feature {number}: a region whose lines cross ({why}); draw it again")
    return shapely.get_parts(objects.geometry[is_region])
