"""Read outlines and points, with their classes, from GeoJSON of QuPath and other tools."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import shapely
from numpy import ndarray

from muse_pipeline.core.errors import GeoJSONError, LabelError, LeftOutWarning
from muse_pipeline.nuclei.rays import largest_parts, polygons_to_rays, repair_areas
from muse_pipeline.qupath.parse import (
    is_geometry,
    iterate_features,
    list_counts,
    properties_of,
    read_class_name,
    read_object_type,
    why_left_out,
)

_POINT, _POLYGON = shapely.GeometryType.POINT, shapely.GeometryType.POLYGON
# Multi-geometries and collections, whose type numbers follow that of polygons.
_COLLECTIONS = [kind for kind in shapely.GeometryType if kind > _POLYGON]


@dataclass(frozen=True, eq=False)
class NucleusParts:
    """Points and polygons, each of which is one nucleus."""

    path: Path | str  # path of the file
    geometry: ndarray  # (P,) points, and valid polygons with an area
    owner: ndarray  # (P,) int index of the object to which each part belongs
    number: ndarray  # (P,) int position of that object in the file, counted from 1

    @property
    def is_polygon(self) -> ndarray:
        """(P,) bool, True for polygons."""
        return shapely.get_type_id(self.geometry) == _POLYGON

    def measure(self, mpp: tuple[float, float], n_rays: int) -> tuple[ndarray, ndarray]:
        """Centres (P, 2) in pixels of ``mpp`` = (x, y), and rays (P, n_rays) in um, NaN for
        points.
        """
        drawn = self.is_polygon
        xy = np.zeros((len(drawn), 2))
        rays = np.full((len(drawn), n_rays), np.nan, np.float32)
        xy[drawn], rays[drawn] = polygons_to_rays(self.geometry[drawn], n_rays, mpp)
        xy[~drawn] = shapely.get_coordinates(self.geometry[~drawn])
        return xy, rays

    def reject(self, wrong: ndarray, what: str) -> None:
        """Raise LabelError for the first part that is ``wrong`` (P,), which ``what`` describes in
        the message.
        """
        if wrong.any():
            raise LabelError(f"{self.path}, feature {self.number[wrong.argmax()]}: {what}")


def split_parts(geometry: ndarray, number: ndarray, path: Path | str) -> NucleusParts:
    """Split geometries (N,), including multi-geometries, into their points and polygons; lines are
    left out.

    The positions ``number`` (N,) of the objects in the file count from 1. If the outline of a
    polygon crosses itself, the nucleus is the largest area that it bounds.
    """
    parts, owner = shapely.get_parts(geometry, return_index=True)
    while np.isin(shapely.get_type_id(parts), _COLLECTIONS).any():
        parts, within = shapely.get_parts(parts, return_index=True)
        owner = owner[within]
    is_nucleus = np.isin(shapely.get_type_id(parts), (_POINT, _POLYGON))
    parts, owner = parts[is_nucleus], owner[is_nucleus]
    broken = ~shapely.is_valid(parts)
    parts[broken] = largest_parts(repair_areas(parts[broken]))
    nuclei = NucleusParts(path, parts, owner, number[owner])
    is_empty = nuclei.is_polygon & (shapely.area(parts) == 0)
    nuclei.reject(is_empty, "is a polygon without an area; delete it or draw it again")
    return nuclei


_BATCH = 8_192


@dataclass
class GeoJSONObjects:
    """Content of a GeoJSON file.

    Attributes:
        path: path of the file.
        geometry: (N,) shapely geometries in absolute level-0 pixels.
        class_name: (N,) str, or None for an object without classification.
        object_type: (N,) str type in QuPath: "detection", "annotation" ...
        name: (N,) str, or None for an object without a name.
        number: (N,) int position of the feature in the file, counted from 1.
    """

    path: Path | str
    geometry: ndarray
    class_name: ndarray
    object_type: ndarray
    name: ndarray
    number: ndarray

    def __len__(self) -> int:
        return len(self.geometry)

    def __getitem__(self, chosen: ndarray) -> GeoJSONObjects:
        """The objects chosen by a mask (N,)."""
        columns = (self.geometry, self.class_name, self.object_type, self.name, self.number)
        return GeoJSONObjects(self.path, *(column[chosen] for column in columns))

    def to_parts(self) -> NucleusParts:
        """Every polygon and every single point, as from ``split_parts``."""
        return split_parts(self.geometry, self.number, self.path)


def read_geojson(
    path: Path | str, offset_px: tuple[int, int] = (0, 0), tiles: bool = True
) -> GeoJSONObjects:
    """Read GeoJSON from QuPath, other tools or this package; of a cell, only the nucleus is read.

    Lines, TMA cores, empty objects and objects on planes above 0 of a stack are left out with a
    warning.

    Args:
        path: path of a GeoJSON file: plain, gzip, or a zip that contains only one such file.
        offset_px: offset added to every position: ``coords.qupath_offset_px(info.bounds)`` for
            files in QuPath's frame.
        tiles: True to read tiles as well: some programs write nuclei as tiles, while QuPath's own
            are superpixels.

    Raises:
        GeoJSONError: the file is not GeoJSON, an outline cannot be built, or all objects were left
            out.
    """
    unwanted = ("tmaCore", "root") if tiles else ("tmaCore", "root", "tile")
    geometries = [np.zeros(0, object)]
    class_names = []
    object_types = []
    names = []
    reasons = []
    items = iterate_features(path)
    while features := [to_feature(item) for item in islice(items, _BATCH)]:
        shapes = _build_geometries(features, path, n_before=len(names))
        types = list(map(read_object_type, features))
        geometries.append(shapes)
        reasons += why_left_out(
            shapes, [feature.get("geometry") for feature in features], types, unwanted
        ).tolist()
        properties = list(map(properties_of, features))
        class_names += [read_class_name(entry.get("classification")) for entry in properties]
        object_types += types
        names += [entry.get("name") for entry in properties]
    used = np.array([reason == "" for reason in reasons], bool)
    if counts := Counter(filter(None, reasons)):
        if not used.any():
            raise GeoJSONError(
                f"{path}: has no usable points or polygons (left out: {list_counts(counts)}); draw"
                " some"
            )
        warnings.warn(f"{path}: left out {list_counts(counts)}", LeftOutWarning, stacklevel=2)
    geometry = shapely.transform(
        np.concatenate(geometries)[used], lambda xy: xy + np.asarray(offset_px, float)
    )
    columns = (np.array(column, object)[used] for column in (class_names, object_types, names))
    return GeoJSONObjects(path, geometry, *columns, np.flatnonzero(used) + 1)


def to_feature(item: Any) -> dict[str, Any]:
    """Convert an item of ``iterate_features`` to a feature, which is empty if the item is not a
    JSON object.
    """
    if not isinstance(item, dict):
        return {}
    if is_geometry(item):
        return {"geometry": item}
    # a QuPath cell has it in addition to the geometry of its border
    nucleus = item.get("nucleusGeometry")
    return {**item, "geometry": nucleus} if nucleus else item


def _build_geometries(features: list[dict[str, Any]], path: Path | str, n_before: int) -> ndarray:
    try:
        texts = [
            orjson.dumps(f["geometry"]).decode() if f.get("geometry") else None for f in features
        ]
    except TypeError as error:
        raise GeoJSONError(
            f"{path}: a geometry has a number beyond 64 bits; correct it or export it again"
        ) from error
    geometry = shapely.from_geojson(texts, on_invalid="ignore")
    failed = [i for i in np.flatnonzero(shapely.is_missing(geometry)) if texts[i] is not None]
    if failed:
        raise GeoJSONError(
            f"{path}: feature {n_before + failed[0] + 1}: the geometry cannot be built; rings must"
            " be closed and have four positions or more; correct it or export it again"
        )
    return geometry
