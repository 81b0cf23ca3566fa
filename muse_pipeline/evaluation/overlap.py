"""How found and true outlines overlap, pair by pair: what PQ, AJI and Dice are made of."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import shapely
from scipy.sparse import coo_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching


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
        if not len(kept):
            return kept
        rows, row = np.unique(self.found[kept], return_inverse=True)
        columns, column = np.unique(self.true[kept], return_inverse=True)
        # SciPy's matching leaves no row alone, so each gets a column of its own that is worse than any true outline.
        idle = len(columns) + np.arange(len(rows))
        weight = np.concatenate([2 - self.iou[kept], np.full(len(rows), 2.0)])
        place = np.concatenate([row, np.arange(len(rows))]), np.concatenate([column, idle])
        chosen = min_weight_full_bipartite_matching(
            coo_array((weight, place), shape=(len(rows), len(columns) + len(rows))).tocsr()
        )
        partner = dict(zip(chosen[0].tolist(), chosen[1].tolist(), strict=True))
        return kept[[partner[r] == c for r, c in zip(row.tolist(), column.tolist(), strict=True)]]


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
