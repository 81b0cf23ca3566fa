"""Size and form of nuclei from their outlines, by Green's formulas; moments are the polygon's own."""

from __future__ import annotations

import numpy as np
import shapely

SHAPE_COLUMNS = ("area_um2", "perimeter_um", "solidity", "eccentricity", "major_axis_um", "minor_axis_um")


def measure_shapes(rings: np.ndarray, mpp: tuple[float, float]) -> dict[str, np.ndarray]:
    """Measurements of simple rings.

    Args:
        rings: (N, V, 2) vertices in pixels, not closed, V >= 3, in either sense of rotation.
        mpp: (x, y) um per pixel.

    Returns:
        Each of ``SHAPE_COLUMNS`` as (N,) float32. Solidity is area over area of the convex hull; axes are the full ones
        of the ellipse with the same second moments, and eccentricity is that ellipse's. A ring without area has
        solidity, eccentricity and axes of 0.
    """
    x, y = np.moveaxis((rings - rings[:, :1]) * np.asarray(mpp, float), -1, 0).copy()  # near the origin: no digits lost
    edges = _following(x) - x, _following(y) - y
    area, moments = _area_and_moments(x, y)
    large, small = _principal_moments(moments)
    values = (
        area,
        np.hypot(*edges).sum(axis=1),
        np.minimum(_ratio(area, _hull_area(x, y, edges, area)), 1),
        np.sqrt(1 - np.minimum(_ratio(small, large), 1)) * (large > 0),
        4 * np.sqrt(large),
        4 * np.sqrt(small),
    )
    return {name: value.astype(np.float32) for name, value in zip(SHAPE_COLUMNS, values, strict=True)}


def _hull_area(x: np.ndarray, y: np.ndarray, edges: tuple[np.ndarray, np.ndarray], area: np.ndarray) -> np.ndarray:
    """Areas (N,) of the convex hulls of rings; most nuclei are their own, and only the others are left to GEOS."""
    turn = edges[0] * _following(edges[1]) - _following(edges[0]) * edges[1]
    dented = np.flatnonzero((turn < 0).any(axis=1) & (turn > 0).any(axis=1))
    hull_area = area.copy()
    if len(dented):
        rings = shapely.linearrings(np.stack([x[dented], y[dented]], axis=-1))
        hull_area[dented] = shapely.area(shapely.convex_hull(rings))
    return hull_area


def _area_and_moments(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Areas (N,) and central second moments (N, 3) as xx, yy, xy, per area."""
    next_x, next_y = _following(x), _following(y)
    cross = x * next_y - next_x * y
    signed_area = cross.sum(axis=1) / 2
    mean_x = _ratio(((x + next_x) * cross).sum(axis=1), 6 * signed_area)
    mean_y = _ratio(((y + next_y) * cross).sum(axis=1), 6 * signed_area)
    xx = _ratio(((x * x + x * next_x + next_x * next_x) * cross).sum(axis=1), 12 * signed_area)
    yy = _ratio(((y * y + y * next_y + next_y * next_y) * cross).sum(axis=1), 12 * signed_area)
    mixed = x * next_y + 2 * (x * y + next_x * next_y) + next_x * y
    xy = _ratio((mixed * cross).sum(axis=1), 24 * signed_area)
    return abs(signed_area), np.stack([xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y], axis=-1)


def _following(values: np.ndarray) -> np.ndarray:
    """Of each vertex (N, V) what the next one has; the first follows the last."""
    return np.concatenate([values[:, 1:], values[:, :1]], axis=1)


def _principal_moments(moments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The larger and the smaller eigenvalue, (N,) each and at least 0, of symmetric moments (N, 3)."""
    xx, yy, xy = moments.T
    middle, spread = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    return np.maximum(middle + spread, 0), np.maximum(middle - spread, 0)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros_like(above), where=below != 0)
