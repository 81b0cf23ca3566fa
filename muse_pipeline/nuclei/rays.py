"""Star-convex outlines: conversion from rays to rings and polygons, and back.

Ray k of R points at the angle 2 pi k / R from +x towards +y and is given in um. A ring consists of
the ends (R, 2) of a nucleus' rays, the first of which is not repeated. QuPath snaps coordinates to
a grid of 0.01 px and rejects a whole file if one polygon does not survive this, so polygons are
checked as they will be written: rounded, and on that grid.
"""

from __future__ import annotations

import numpy as np
import shapely
from numpy import ndarray

DECIMALS = 1  # decimal places of the coordinates of outlines, in pixels
QUPATH_GRID_PX = 0.01
# parts farther apart do not meet when each moves by half a cell of the grid
_CLEARANCE_PX = 2 * QUPATH_GRID_PX
_CIRCLE = np.array(
    [(1, 0), (0.7, 0.7), (0, 1), (-0.7, 0.7), (-1, 0), (-0.7, -0.7), (0, -1), (0.7, -0.7)]
)
_SMALLEST_RADIUS_PX = 0.5
_EDGE_RAY_PAIRS = 4_000_000  # maximum number of pairs (edge, ray) processed at a time


def ray_directions(n_rays: int) -> ndarray:
    """Unit vectors (n_rays, 2) in the directions of the rays."""
    angles = 2 * np.pi * np.arange(n_rays) / n_rays
    return np.stack([np.cos(angles), np.sin(angles)], -1)


def points_along_rays(xy: ndarray, along_um: ndarray, mpp: float) -> tuple[ndarray, ndarray]:
    """Columns and rows of points on rays, (S, N * R) float32 each, for ``cv2.remap``: 0 is a
    pixel's middle.

    The S points on each of the R rays from centres (N, 2) in pixels lie ``along_um`` (S, N, R)
    float32 from the centre.
    """
    directions = (ray_directions(along_um.shape[2]) / mpp).astype(np.float32)
    starts = (xy - 0.5).astype(np.float32)
    columns, rows = (along_um * directions[:, axis] + starts[:, axis, None] for axis in (0, 1))
    return columns.reshape(len(along_um), -1), rows.reshape(len(along_um), -1)


def rays_to_rings(xy_level0: ndarray, rays_um: ndarray, mpp: tuple[float, float]) -> ndarray:
    """Ends (N, R, 2) of rays (N, R) in um around centres (N, 2), in pixels of ``mpp`` = (x, y)."""
    directions_px = ray_directions(rays_um.shape[1]) / np.asarray(mpp, float)
    return (
        np.asarray(xy_level0, float)[:, None]
        + np.asarray(rays_um, float)[..., None] * directions_px
    )


def clip_rays(
    xy_level0: ndarray, rays_um: ndarray, mpp: tuple[float, float], box: tuple[int, int, int, int]
) -> ndarray:
    """Shorten rays (N, R) float32 that end outside a box, so that outlines are cut at its edges.

    The centres (N, 2) and the box (left, top, right, bottom) are in pixels of ``mpp`` = (x, y).
    Nuclei with a centre outside keep their rays. If all nuclei lie clear of the edges, ``rays_um``
    itself is returned.
    """
    low, high = np.reshape(np.asarray(box, float), (2, 1, 2))
    reach = rays_um.max(axis=1, initial=0)[:, None] / np.asarray(mpp, float)
    inside = ((xy_level0 >= low) & (xy_level0 <= high)).all(axis=1)
    crossing = np.flatnonzero(
        inside & ((xy_level0 - reach < low) | (xy_level0 + reach > high)).any(axis=1)
    )
    if not len(crossing):
        return rays_um
    directions_px = ray_directions(rays_um.shape[1]) / np.asarray(mpp, float)
    room = np.where(
        directions_px > 0, high - xy_level0[crossing, None], xy_level0[crossing, None] - low
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        # A ray along an edge gives 0 / 0, which is NaN; such an edge does not limit the ray.
        limit = np.nan_to_num(room / abs(directions_px), nan=np.inf).min(axis=-1)
    # rounding up would exceed the edge
    limit = np.nextafter(limit.astype(np.float32), np.float32(0))
    clipped = rays_um.copy()
    clipped[crossing] = np.where(rays_um[crossing] > limit, limit, rays_um[crossing])
    return clipped


def rings_to_polygons(
    rings: ndarray, size_px: tuple[int, int] | None = None
) -> tuple[ndarray, int]:
    """Polygons that QuPath accepts, from rings (N, R, 2) in level-0 pixels, and the number of rings
    that were repaired.

    The polygons (N,) have no holes, vertices rounded to 0.1 px, and are counter-clockwise where y
    points up. Rings that do not remain simple are repaired; circles that replace collapsed rings
    stay within ``size_px`` (width, height).
    """
    rounded = np.round(rings, DECIMALS)
    if not np.isfinite(rounded).all():
        raise ValueError(
            "a nucleus has a position or ray that is not finite; it should never have been detected"
        )
    polygons = shapely.polygons(np.concatenate([rounded, rounded[:, :1]], axis=1))
    doubtful = np.flatnonzero(~are_clearly_simple(rounded))
    broken = doubtful[~survive_qupath(polygons[doubtful])]
    polygons[broken] = _repair(polygons[broken], rounded[broken], size_px)
    return polygons, len(broken)


def survive_qupath(polygons: ndarray) -> ndarray:
    """(N,) bool: True for polygons that are valid, and remain one valid polygon with an area on
    QuPath's grid.
    """
    survives = shapely.is_valid(polygons) & (
        shapely.get_type_id(polygons) == shapely.GeometryType.POLYGON
    )
    snapped = shapely.set_precision(polygons[survives], QUPATH_GRID_PX)
    is_polygon = shapely.get_type_id(snapped) == shapely.GeometryType.POLYGON
    survives[survives] = is_polygon & shapely.is_valid(snapped) & (shapely.area(snapped) > 0)
    return survives


def are_clearly_simple(rings: ndarray) -> ndarray:
    """(N,) bool: True for rings (N, R, 2) that are simple with clearance, by a cheap and
    conservative test.

    A ring whose vertices turn once around their mean is simple. Each edge lies in the wedge between
    the rays from the mean to its ends, so any other vertex is at least as far from the edge as from
    the ray to one of the vertices next to that vertex. If all vertices are far from the rays to
    their neighbours, snapping to the grid joins nothing.
    """
    x, y = (axis - axis.mean(axis=1, keepdims=True) for axis in np.moveaxis(rings, -1, 0))
    next_x = np.roll(x, -1, axis=1)
    next_y = np.roll(y, -1, axis=1)
    squared = x * x + y * y
    cross = x * next_y - y * next_x
    longer = np.maximum(squared, np.roll(squared, -1, axis=1))
    apart = ((cross > 0) & (cross * cross > _CLEARANCE_PX**2 * longer)).all(axis=1)
    return apart & (((y < 0) & (next_y >= 0)).sum(axis=1) == 1)


def _repair(polygons: ndarray, rings: ndarray, size_px: tuple[int, int] | None) -> ndarray:
    """The largest valid part of each broken polygon (N,), without holes; if there is none, a circle
    of mean radius.
    """
    parts = shapely.set_precision(repair_areas(polygons), 10.0**-DECIMALS)
    outlines = shapely.polygons(shapely.get_exterior_ring(largest_parts(parts)))
    repaired = shapely.transform(outlines, lambda xy: np.round(xy, DECIMALS))
    lost = np.flatnonzero(~survive_qupath(repaired))
    repaired[lost] = _circles(rings[lost], size_px)
    clockwise = ~shapely.is_ccw(shapely.get_exterior_ring(repaired))
    repaired[clockwise] = shapely.reverse(repaired[clockwise])
    return repaired


def largest_parts(geometries: ndarray) -> ndarray:
    """The largest polygon within each geometry (N,); an empty polygon if there is none."""
    members, geometry = shapely.get_parts(geometries, return_index=True)
    # a collection may contain multipolygons
    parts, member = shapely.get_parts(members, return_index=True)
    owner = geometry[member]
    area = np.where(
        shapely.get_type_id(parts) == shapely.GeometryType.POLYGON, shapely.area(parts), 0.0
    )
    ascending = np.lexsort((area, owner))
    ascending = ascending[area[ascending] > 0]
    largest = np.full(len(geometries), shapely.Polygon(), object)
    # NumPy keeps the last of several assignments to one index
    largest[owner[ascending]] = parts[ascending]
    return largest


def _circles(rings: ndarray, size_px: tuple[int, int] | None) -> ndarray:
    centres = rings.mean(axis=1)
    radii = np.maximum(
        np.linalg.norm(rings - centres[:, None], axis=-1).mean(axis=1), _SMALLEST_RADIUS_PX
    )
    if size_px is not None:
        centres = np.clip(centres, radii[:, None], np.asarray(size_px) - radii[:, None])
    return shapely.polygons(
        np.round(np.round(centres, DECIMALS)[:, None] + radii[:, None, None] * _CIRCLE, DECIMALS)
    )


def polygons_to_rays(
    polygons: ndarray, n_rays: int, mpp: tuple[float, float], centres: ndarray | None = None
) -> tuple[ndarray, ndarray]:
    """Distances in um from a centre of each polygon (N,) to the first crossing with the outline,
    along ``n_rays`` rays.

    The result has the centres (N, 2) in pixels, and the rays (N, n_rays) float32, 0 if the centre
    lies outside. Only the largest part of each polygon counts, and holes are ignored. The
    ``centres`` are ``interior_centres`` by default.
    """
    rings = shapely.get_exterior_ring(largest_parts(np.asarray(polygons, object)))
    polygons = shapely.polygons(rings)
    centres = (
        interior_centres(polygons) if centres is None else np.asarray(centres, float).reshape(-1, 2)
    )
    xy, owner = shapely.get_coordinates(rings, return_index=True)
    within = owner[1:] == owner[:-1]  # vertices of two polygons do not form an edge
    spokes = (xy - centres[owner]) * np.asarray(mpp, float)
    rays = np.full((len(polygons), n_rays), np.inf)
    step = max(1, _EDGE_RAY_PAIRS // n_rays)
    starts = spokes[:-1][within]
    ends = spokes[1:][within]
    edge_owner = owner[1:][within]
    for first in range(0, len(starts), step):
        chunk = slice(first, first + step)
        _shorten(rays, starts[chunk], ends[chunk], edge_owner[chunk])
    inside = shapely.contains_xy(polygons, centres[:, 0], centres[:, 1])
    return centres, np.where(np.isfinite(rays) & inside[:, None], rays, 0).astype(np.float32)


def _shorten(rays: ndarray, starts: ndarray, ends: ndarray, owner: ndarray) -> None:
    """Shorten ``rays`` (N, R), in place, at edges ``starts`` to ``ends`` (E, 2), sorted by nucleus
    ``owner`` (E,).
    """
    directions = ray_directions(rays.shape[1])
    start_side = directions[:, 0] * starts[:, 1:] - directions[:, 1] * starts[:, :1]  # (E, R)
    end_side = directions[:, 0] * ends[:, 1:] - directions[:, 1] * ends[:, :1]
    area = starts[:, 0] * ends[:, 1] - starts[:, 1] * ends[:, 0]  # (E,)
    with np.errstate(divide="ignore", invalid="ignore"):
        # A ray d meets the edge from s to e at the distance (s x e) / (d x e - d x s), where x is
        # the cross product.
        distance = area[:, None] / (end_side - start_side)
    # A vertex on a ray is taken to lie on one side of it, so that exactly one of its two edges is
    # crossed.
    met = ((start_side <= 0) != (end_side <= 0)) & (distance > 0)
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    nearest = np.minimum.reduceat(np.where(met, distance, np.inf), first, axis=0)
    rays[owner[first]] = np.minimum(rays[owner[first]], nearest)


def interior_centres(polygons: ndarray) -> ndarray:
    """Centroids (N, 2) of polygons (N,); the centre of the largest inscribed circle if the centroid
    lies outside.
    """
    centroids = shapely.get_coordinates(shapely.centroid(polygons))
    outside = np.flatnonzero(~shapely.contains_xy(polygons, centroids[:, 0], centroids[:, 1]))
    if len(outside):
        radius_lines = shapely.maximum_inscribed_circle(polygons[outside])
        centroids[outside] = shapely.get_coordinates(shapely.get_point(radius_lines, 0))
    return centroids


def repair_areas(geometry: ndarray) -> ndarray:
    """Make geometries (N,) valid: holes stay empty, also along an edge, overlaps count once, spikes
    are removed.
    """
    # GEOS's other method fills a hole that shares an edge with its ring, and empties overlaps.
    return shapely.make_valid(geometry, method="structure", keep_collapsed=False)
