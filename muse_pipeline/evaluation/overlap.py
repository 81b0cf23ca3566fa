"""How found and true outlines overlap, pair by pair: what PQ, AJI and Dice are made of."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import shapely
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


@dataclass(frozen=True)
class Overlaps:
    """Areas of P found and T true outlines, and of every pair that shares some.

    Attributes:
        found: (E,) index of the found outline of each overlapping pair.
        true: (E,) index of its true one.
        shared: (E,) area that both cover, in the unit of the areas.
        found_area: (P,).
        true_area: (T,).
    """

    found: np.ndarray
    true: np.ndarray
    shared: np.ndarray
    found_area: np.ndarray
    true_area: np.ndarray

    @property
    def union(self) -> np.ndarray:
        """(E,) area that either of a pair covers."""
        return self.found_area[self.found] + self.true_area[self.true] - self.shared

    @property
    def iou(self) -> np.ndarray:
        """(E,) intersection over union."""
        return self.shared / self.union

    def keep(self, found: np.ndarray, true: np.ndarray) -> Overlaps:
        """Only the pairs of outlines chosen by masks (P,) and (T,); indices and areas stay."""
        pair = found[self.found] & true[self.true]
        return replace(self, found=self.found[pair], true=self.true[pair], shared=self.shared[pair])

    def match(self, above: float = 0.0) -> np.ndarray:
        """Pairs (M,), as indices into the E, with the largest sum of IoU, one-to-one, each IoU more than ``above``.

        Above one half at most one found outline can cover a true one, unless found outlines overlap each other.
        """
        kept = np.flatnonzero(self.iou > above)
        edges = coo_array((np.ones(len(kept)), (self.found[kept], len(self.found_area) + self.true[kept])), self._nodes)
        cluster = connected_components(edges, directed=False)[1][self.found[kept]]
        order = np.argsort(cluster, kind="stable")
        groups = np.split(kept[order], np.flatnonzero(np.diff(cluster[order])) + 1)
        return np.sort(np.concatenate([one if len(one) < 2 else self._assign(one) for one in groups]))

    @property
    def _nodes(self) -> tuple[int, int]:
        n_nodes = len(self.found_area) + len(self.true_area)
        return n_nodes, n_nodes

    def _assign(self, pairs: np.ndarray) -> np.ndarray:
        """The best one-to-one choice among pairs (G,) of one cluster of outlines."""
        (rows, row), (columns, column) = (
            np.unique(side[pairs], return_inverse=True) for side in (self.found, self.true)
        )
        pair_at = np.full((len(rows), len(columns)), -1)
        pair_at[row, column] = pairs
        weight = np.where(pair_at >= 0, self.iou[pair_at], 0)
        chosen = pair_at[linear_sum_assignment(weight, maximize=True)]
        return chosen[chosen >= 0]


def overlap_labels(found: np.ndarray, true: np.ndarray) -> Overlaps:
    """Overlaps of two label pictures (h, w), 0 background, in pixels; outlines in ascending order of their labels."""
    _, first = np.unique(np.append(0, found.ravel()), return_inverse=True)
    _, second = np.unique(np.append(0, true.ravel()), return_inverse=True)
    first, second = first[1:], second[1:]  # the 0 was there to be the background's, also where there is none
    n_found, n_true = int(first.max(initial=0)), int(second.max(initial=0))
    both = (first > 0) & (second > 0)
    pair, shared = np.unique((first[both] - 1) * max(n_true, 1) + second[both] - 1, return_counts=True)
    return Overlaps(
        *np.divmod(pair, max(n_true, 1)),
        shared,
        np.bincount(first, minlength=n_found + 1)[1:],
        np.bincount(second, minlength=n_true + 1)[1:],
    )


def overlap_polygons(found: np.ndarray, true: np.ndarray, mpp: tuple[float, float]) -> Overlaps:
    """Overlaps of polygons (P,) and (T,) in pixels of ``mpp``, in um2, without painting them."""
    um2 = mpp[0] * mpp[1]
    pairs = shapely.STRtree(true).query(found, predicate="intersects")
    shared = shapely.area(shapely.intersection(found[pairs[0]], true[pairs[1]])) * um2
    touching = shared > 0
    return Overlaps(*pairs[:, touching], shared[touching], shapely.area(found) * um2, shapely.area(true) * um2)
