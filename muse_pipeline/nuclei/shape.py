"""Size and shape of nuclei, computed from their outlines by Green's formulas, and clusters of
nuclei by shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy import ndarray

from muse_pipeline.nuclei.table import Nuclei

SHAPE_COLUMNS = (
    "area_um2",
    "perimeter_um",
    "solidity",
    "eccentricity",
    "major_axis_um",
    "minor_axis_um",
)


def measure_shapes(rings: ndarray, mpp: tuple[float, float]) -> dict[str, ndarray]:
    """Each of ``SHAPE_COLUMNS``, (N,) float32, of simple rings (N, V, 2) in pixels, not closed, in
    either direction.

    Solidity is the area divided by that of the convex hull. Axes (in full length) and eccentricity
    are those of the ellipse with the same second moments as the polygon. A ring without area has
    solidity, eccentricity and axes of 0.
    """
    # near 0, to limit rounding
    x, y = np.moveaxis((rings - rings[:, :1]) * np.asarray(mpp, float), -1, 0).copy()
    edges = _following(x) - x, _following(y) - y
    area, moments = area_and_moments(x, y)
    xx, yy, xy = moments.T
    middle, spread = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    large, small = np.maximum(middle + spread, 0), np.maximum(middle - spread, 0)  # eigenvalues
    values = (
        area,
        np.hypot(*edges).sum(axis=1),
        np.minimum(_ratio(area, _hull_area(x, y, edges, area)), 1),
        np.sqrt(1 - np.minimum(_ratio(small, large), 1)) * (large > 0),
        4 * np.sqrt(large),
        4 * np.sqrt(small),
    )
    return {
        name: value.astype(np.float32) for name, value in zip(SHAPE_COLUMNS, values, strict=True)
    }


def _hull_area(x: ndarray, y: ndarray, edges: tuple[ndarray, ndarray], area: ndarray) -> ndarray:
    """Areas (N,) of the convex hulls of rings; only the few rings that are not convex are passed to
    GEOS.
    """
    turn = edges[0] * _following(edges[1]) - _following(edges[0]) * edges[1]
    dented = np.flatnonzero((turn < 0).any(axis=1) & (turn > 0).any(axis=1))
    hull_area = area.copy()
    if len(dented):
        rings = shapely.linearrings(np.stack([x[dented], y[dented]], axis=-1))
        hull_area[dented] = shapely.area(shapely.convex_hull(rings))
    return hull_area


def area_and_moments(x: ndarray, y: ndarray) -> tuple[ndarray, ndarray]:
    """Areas (N,) of rings, and their central second moments (N, 3), xx, yy and xy, divided by the
    area.
    """
    next_x, next_y = _following(x), _following(y)
    cross = x * next_y - next_x * y
    signed_area = cross.sum(axis=1) / 2
    mean_x = _ratio(((x + next_x) * cross).sum(axis=1), 6 * signed_area)
    mean_y = _ratio(((y + next_y) * cross).sum(axis=1), 6 * signed_area)
    xx = _ratio(((x * x + x * next_x + next_x * next_x) * cross).sum(axis=1), 12 * signed_area)
    yy = _ratio(((y * y + y * next_y + next_y * next_y) * cross).sum(axis=1), 12 * signed_area)
    mixed = x * next_y + 2 * (x * y + next_x * next_y) + next_x * y
    xy = _ratio((mixed * cross).sum(axis=1), 24 * signed_area)
    return abs(signed_area), np.stack(
        [xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y], axis=-1
    )


def _following(values: ndarray) -> ndarray:
    """The values (N, V) of the next vertex after each vertex; the first follows the last."""
    return np.concatenate([values[:, 1:], values[:, :1]], axis=1)


def _ratio(above: ndarray, below: ndarray) -> ndarray:
    return np.divide(above, below, out=np.zeros_like(above), where=below != 0)


N_CLUSTERS = 4
SAMPLE = 20_000
ROUNDS = 100  # maximum number of rounds of Lloyd's algorithm, which ends earlier if nothing changes
MEASURES = ("area_um2", "eccentricity", "solidity")


@dataclass(frozen=True, eq=False)
class MorphologyClusters:
    """Cluster centres in the space of standardised measures: logarithm of area, eccentricity and
    solidity.
    """

    mean: ndarray  # (3,) means of the sample
    scale: ndarray  # (3,) standard deviations of the sample
    centres: ndarray  # (k, 3) standardised centres, sorted by ascending area
    share: ndarray  # (k,) fraction of the sample in each cluster

    def assign(self, shapes: Mapping[str, ndarray]) -> ndarray:
        """(N,) int32: the cluster of each nucleus, from its ``measure_shapes``; 1 for the smallest
        nuclei.
        """
        return (
            _nearest((_table(shapes) - self.mean) / self.scale, self.centres).astype(np.int32) + 1
        )

    def describe(self) -> list[dict[str, Any]]:
        """Describe the nuclei of each cluster, for the provenance."""
        values = self.centres * self.scale + self.mean
        values[:, 0] = np.exp(values[:, 0])
        return [
            {
                "cluster": number,
                "share": round(float(share), 4),
                **dict(zip(MEASURES, row.round(4).tolist(), strict=True)),
            }
            for number, (row, share) in enumerate(zip(values, self.share, strict=True), 1)
        ]


class ShapeSample:
    """A sample of the shapes of up to 20,000 nuclei: those whose positions have the smallest
    hashes.

    The function ``measure`` returns ``measure_shapes`` of nuclei; it is called only for candidates
    for the sample.
    """

    def __init__(self, measure: Callable[[Nuclei], Mapping[str, ndarray]]):
        self.measure = measure
        self._hashes = np.zeros(0, np.uint64)
        self._values = np.zeros((0, len(MEASURES)))

    def add(self, nuclei: Nuclei) -> None:
        """Update the sample, so that it has the nuclei with the smallest hashes among all added so
        far.
        """
        hashes = _hash(nuclei.xy)
        if len(self._hashes) == SAMPLE:
            chosen = hashes < self._hashes[-1]
            nuclei, hashes = nuclei[chosen], hashes[chosen]
        if not len(nuclei):
            return
        hashes = np.concatenate([self._hashes, hashes])
        values = np.concatenate([self._values, _table(self.measure(nuclei))])
        first = np.lexsort((*values.T, hashes))[:SAMPLE]
        self._hashes, self._values = hashes[first], values[first]

    def fit(self) -> MorphologyClusters:
        """Cluster the sample with Lloyd's k-means, deterministic because it starts from equal-sized
        groups by area.
        """
        values = self._values if len(self._values) else np.zeros((1, len(MEASURES)))
        mean, deviation = values.mean(0), values.std(0)
        scale = np.where(deviation > 1e-6, deviation, 1.0)
        standard = (values - mean) / scale
        label = np.empty(len(values), np.intp)
        # ``lexsort`` sorts by its last key first, which is the area.
        label[np.lexsort(standard.T[::-1])] = np.arange(len(values)) * N_CLUSTERS // len(values)
        centres = np.zeros((N_CLUSTERS, len(MEASURES)))
        for _ in range(ROUNDS):
            n = np.bincount(label, minlength=N_CLUSTERS)[:, None]
            sums = np.stack(
                [np.bincount(label, column, minlength=N_CLUSTERS) for column in standard.T], 1
            )
            # an empty group keeps its centre
            centres = np.where(n > 0, sums / np.maximum(n, 1), centres)
            moved = _nearest(standard, centres)
            if np.array_equal(moved, label):
                break
            label = moved
        by_area = np.lexsort(centres.T[::-1])
        share = np.bincount(label, minlength=N_CLUSTERS)[by_area] / len(label)
        return MorphologyClusters(mean, scale, centres[by_area], share)


def _table(shapes: Mapping[str, ndarray]) -> ndarray:
    """(N, 3) float64 measures, before standardisation."""
    area, *others = (np.asarray(shapes[name], np.float64) for name in MEASURES)
    return np.stack([np.log(np.maximum(area, 1e-3)), *others], 1)


def _hash(xy: ndarray) -> ndarray:
    """(N,) uint64 hashes of positions rounded to 0.01 px: SplitMix64's finaliser (Steele et al.,
    OOPSLA 2014).
    """
    hundredths = np.rint(xy * 100).astype(np.int64).astype(np.uint64)
    bits = hundredths[:, 0] << np.uint64(32) ^ hundredths[:, 1]
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ bits >> np.uint64(shift)) * np.uint64(factor)
    return bits ^ bits >> np.uint64(31)


def _nearest(values: ndarray, centres: ndarray) -> ndarray:
    """(N,) index of the nearest centre; the first of equally near ones."""
    return ((values[:, None] - centres) ** 2).sum(2).argmin(1)
