"""The nuclei within GeoJSON geometries: points and polygons, mended and measured in one way for all who read them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely

from muse_pipeline.errors import LabelError
from muse_pipeline.nuclei.rays import largest_parts, polygons_to_rays

_POINT, _POLYGON = shapely.GeometryType.POINT, shapely.GeometryType.POLYGON
_COLLECTIONS = [kind for kind in shapely.GeometryType if kind > _POLYGON]


@dataclass(frozen=True, eq=False)
class NucleusParts:
    """Points and polygons, each one nucleus.

    Attributes:
        path: the file.
        geometry: (P,) points, and valid polygons with an area.
        owner: (P,) int, which object of the file each is a part of.
        number: (P,) int, that object's number in the file, from 1.
    """

    path: Path | str
    geometry: np.ndarray
    owner: np.ndarray
    number: np.ndarray

    @property
    def is_polygon(self) -> np.ndarray:
        """(P,) bool."""
        return shapely.get_type_id(self.geometry) == _POLYGON

    def measure(self, mpp: tuple[float, float], n_rays: int) -> tuple[np.ndarray, np.ndarray]:
        """Centres (P, 2) in pixels of ``mpp`` = (x, y), and rays (P, n_rays) in um, NaN of points."""
        drawn = self.is_polygon
        xy = np.zeros((len(drawn), 2))
        rays = np.full((len(drawn), n_rays), np.nan, np.float32)
        xy[drawn], rays[drawn] = polygons_to_rays(self.geometry[drawn], n_rays, mpp)
        xy[~drawn] = shapely.get_coordinates(self.geometry[~drawn])
        return xy, rays

    def refuse(self, wrong: np.ndarray, what: str) -> None:
        """Say ``what`` of the first part that is ``wrong`` (P,).

        Raises:
            LabelError: there is one; its number is named.
        """
        refuse_objects(wrong, self.number, self.path, what)


def split_parts(geometry: np.ndarray, number: np.ndarray, path: Path | str) -> NucleusParts:
    """The points and polygons of geometries (N,), parts of multi-geometries too; lines in collections are left out.

    Of a polygon whose lines cross, the largest area that they bound is the nucleus.

    Args:
        geometry: of the objects.
        number: (N,) of the objects in the file.
        path: the file.

    Raises:
        LabelError: a polygon has no area; its number is named.
    """
    parts, owner = flatten(geometry)
    is_nucleus = np.isin(shapely.get_type_id(parts), (_POINT, _POLYGON))
    parts, owner = parts[is_nucleus], owner[is_nucleus]
    broken = ~shapely.is_valid(parts)
    parts[broken] = largest_parts(shapely.make_valid(parts[broken]))
    found = NucleusParts(path, parts, owner, number[owner])
    found.refuse(
        found.is_polygon & (shapely.area(parts) == 0), "is a polygon without an area; delete it or draw it again"
    )
    return found


def flatten(geometry: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points, lines, polygons (P,) in geometries (N,), also in collections of collections, and whose (P,) each is."""
    parts, owner = shapely.get_parts(geometry, return_index=True)
    while np.isin(shapely.get_type_id(parts), _COLLECTIONS).any():
        parts, within = shapely.get_parts(parts, return_index=True)
        owner = owner[within]
    return parts, owner


def refuse_objects(wrong: np.ndarray, number: np.ndarray, path: Path | str, what: str) -> None:
    """Say ``what`` of the first object that is ``wrong`` (N,).

    Raises:
        LabelError: there is one.
    """
    if wrong.any():
        raise LabelError(f"{path}, feature {number[wrong.argmax()]}: {what}")
