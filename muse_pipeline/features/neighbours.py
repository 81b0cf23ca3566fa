"""The surroundings of each nucleus: distances and counts of other nuclei, and the distance to the
tissue's edge.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy import ndarray

from muse_pipeline.core.types import Frame
from muse_pipeline.features.catalogue import EDGE_UM, MIX_UM, RADII_UM
from muse_pipeline.features.densities import count_from
from muse_pipeline.nuclei.pairs import SLACK
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.tissue.mask import KeptArea, measure_depth

REACH_UM = RADII_UM[-1]
# number of nuclei whose neighbours are compared at once, so that they fit in the CPU's cache
_AT_ONCE = 256


def with_surroundings(
    parts: Iterable[Nuclei], reach: ndarray, back_px: float
) -> Iterator[tuple[Nuclei, Nuclei]]:
    """Yield each part, with all nuclei of other parts within ``reach`` (x, y) of the box around it;
    all in level-0 px.

    Parts, none of them empty, arrive in rows of windows of height ``back_px``, so that no nucleus
    lies farther than this above the lowest nucleus of the earlier parts, and a part's neighbours
    are complete once the stream has passed it. Only parts within reach are kept in memory.
    """
    held = deque()
    n_waiting, passed = 0, -np.inf
    for nuclei in parts:
        part = _Part(nuclei)
        held.append(part)
        n_waiting += 1
        passed = max(passed, part.high[1] - back_px)
        # No later nucleus lies above ``passed``, so the neighbours of a part whose reach ends above
        # it are complete.
        while n_waiting and held[-n_waiting].high[1] + reach[1] < passed:
            yield held[-n_waiting].with_others(held, reach)
            n_waiting -= 1
        needed = min([passed, *(held[-k].low[1] for k in range(1, n_waiting + 1))]) - reach[1]
        while len(held) > n_waiting and held[0].high[1] < needed:
            held.popleft()
    for k in range(n_waiting, 0, -1):
        yield held[-k].with_others(held, reach)


class _Part:
    """Nuclei and the box around their centres."""

    def __init__(self, nuclei: Nuclei):
        self.nuclei = nuclei
        # what others need to know
        self.slim = Nuclei(nuclei.xy, Frame.LEVEL0, rays=nuclei.rays, label=nuclei.label)
        self.low, self.high = nuclei.xy.min(0), nuclei.xy.max(0)

    def with_others(self, held: Iterable[_Part], reach: ndarray) -> tuple[Nuclei, Nuclei]:
        """The part's nuclei, and the position, rays and label of nuclei of other parts within
        ``reach`` of its box.
        """
        low, high = self.low - reach, self.high + reach
        near = [self.slim[:0]]
        for part in held:
            if part is not self and (part.low <= high).all() and (part.high >= low).all():
                x, y = part.slim.xy.T
                near.append(
                    part.slim[(x >= low[0]) & (x <= high[0]) & (y >= low[1]) & (y <= high[1])]
                )
        return self.nuclei, Nuclei.concatenate(near)


def measure_neighbours(
    um: ndarray, label: ndarray, others_um: ndarray, others_label: ndarray, classes: Sequence[str]
) -> dict[str, ndarray]:
    """Distance to the nearest nucleus, counts, and the mix of classes, (N,) each, for nuclei at
    ``um`` (N, 2).

    All other nuclei within ``REACH_UM`` are at ``others_um`` (M, 2). Labels are indices of
    ``classes``.
    """
    all_um = np.concatenate([um, others_um])
    all_label = np.concatenate([label, others_label])
    # Positions are sorted into square cells; two empty cells surround them, so that every cell has
    # two on each side.
    column, row = np.floor((all_um - all_um.min(0)) / (REACH_UM / 2 * SLACK)).astype(int).T + 2
    n_columns = column.max() + 3
    cell = row * n_columns + column
    order = np.argsort(cell, kind="stable")
    first = np.searchsorted(cell[order], np.arange((row.max() + 3) * n_columns + 1))
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    (x, y), sorted_label = np.ascontiguousarray(all_um[order].T), all_label[order]
    names = [f"neighbours_within_{radius}um" for radius in RADII_UM]
    features = {"neighbours_nearest_um": np.empty(len(um))} | {
        name: np.empty(len(um), int) for name in names
    }
    n_same = np.zeros(len(um))
    of_class = np.empty((len(classes), len(um)), int)
    for start in range(0, len(um), _AT_ONCE):
        group = slice(start, min(start + _AT_ONCE, len(um)))
        own = place[group]
        rows = cell[group, None] + n_columns * np.arange(-2, 3)
        begin, n = first[rows - 2], first[rows + 3] - first[rows - 2]
        near = count_from(begin.ravel(), n.ravel())
        bounds = np.append(0, np.cumsum(n.sum(1)))
        across, down = (axis.take(near) - np.repeat(axis[own], np.diff(bounds)) for axis in (x, y))
        squared = across * across + down * down
        squared[bounds[:-1] + n[:, :2].sum(1) + own - begin[:, 2]] = np.inf  # the nucleus itself
        nearest = np.minimum.reduceat(squared, bounds[:-1])
        features["neighbours_nearest_um"][group] = np.where(
            nearest < REACH_UM**2, np.sqrt(nearest), np.nan
        )
        for name, radius in zip(names, RADII_UM, strict=True):
            within = np.flatnonzero(squared <= radius**2)
            ends = np.searchsorted(within, bounds)
            features[name][group] = np.diff(ends)
            if radius == MIX_UM:
                label_within = sorted_label.take(near.take(within))
                for number, n_class in enumerate(of_class):
                    n_class[group] = np.diff(
                        np.searchsorted(np.flatnonzero(label_within == number), ends)
                    )
    if len(classes) < 2:
        return features
    n_around = features[f"neighbours_within_{MIX_UM}um"]
    with np.errstate(invalid="ignore"):
        for number, name in enumerate(classes):
            features[f"neighbours_fraction_{name}"] = of_class[number] / n_around
            n_same[label == number] = of_class[number, label == number]
        features["neighbours_same_class_fraction"] = n_same / n_around
    return features


def measure_edge_distance(xy: ndarray, kept: KeptArea, slide_mpp: tuple[float, float]) -> ndarray:
    """Distance (N,) in um, at most ``EDGE_UM``, from positions (N, 2) in level-0 px to the edge of
    the kept area.

    Only the mask around the positions is read. The border of a region of interest is not an edge.
    """
    cells = xy * (np.asarray(slide_mpp) / kept.mask_mpp)
    margin = np.ceil(EDGE_UM / kept.mask_mpp).astype(int) + 1
    low = np.floor(cells.min(0)).astype(int) - margin
    high = np.floor(cells.max(0)).astype(int) + margin + 1
    mask = kept.crop(low, high)
    column, row = (np.floor(cells).astype(int) - low).T
    return np.minimum(measure_depth(mask, kept.mask_mpp)[row, column], EDGE_UM)
