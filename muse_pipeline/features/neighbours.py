"""The surroundings of each nucleus: distances and counts of other nuclei, and the distance to the tissue's edge."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np

from muse_pipeline.core.types import Frame
from muse_pipeline.features.catalogue import EDGE_UM, MIX_UM, RADII_UM
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.tissue.mask import KeptArea

REACH_UM = RADII_UM[-1]


def with_surroundings(parts: Iterable[Nuclei], reach: np.ndarray, back_px: float) -> Iterator[tuple[Nuclei, Nuclei]]:
    """Yield each part, with all nuclei of other parts within ``reach`` of the box around it.

    Parts arrive in rows of windows, so that a part's neighbours are complete once the stream has passed it; only parts
    within reach are kept in memory.

    Args:
        parts: nuclei (frame: level0); no part is empty.
        reach: (2,) distance in level-0 px in x and y.
        back_px: height of a row of windows; no nucleus lies farther than this above the lowest nucleus of the earlier
            parts.
    """
    held: deque[_Part] = deque()
    n_waiting, passed = 0, -np.inf
    for nuclei in parts:
        part = _Part(nuclei)
        held.append(part)
        n_waiting += 1
        passed = max(passed, part.high[1] - back_px)
        # No later nucleus lies above ``passed``, so the neighbours of a part whose reach ends above it are complete.
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
        self.low, self.high = nuclei.xy.min(0), nuclei.xy.max(0)

    def with_others(self, held: Iterable[_Part], reach: np.ndarray) -> tuple[Nuclei, Nuclei]:
        """The part's nuclei, and the position, rays and label of nuclei of other parts within ``reach`` of its box."""
        low, high = self.low - reach, self.high + reach
        found = [_slim(self.nuclei[:0])]
        for part in held:
            if part is not self and (part.low <= high).all() and (part.high >= low).all():
                inside = ((part.nuclei.xy >= low) & (part.nuclei.xy <= high)).all(1)
                found.append(_slim(part.nuclei[np.flatnonzero(inside)]))
        return self.nuclei, Nuclei.concatenate(found)


def _slim(nuclei: Nuclei) -> Nuclei:
    return Nuclei(nuclei.xy, Frame.LEVEL0, rays=nuclei.rays, label=nuclei.label)


def measure_neighbours(
    um: np.ndarray, label: np.ndarray, others_um: np.ndarray, others_label: np.ndarray, classes: Sequence[str]
) -> dict[str, np.ndarray]:
    """Distance to the nearest nucleus, counts, and the mix of classes, (N,) each.

    Args:
        um: (N, 2) positions of the nuclei in um.
        label: (N,) labels of the nuclei.
        others_um: (M, 2) positions of all other nuclei within ``REACH_UM``.
        others_label: (M,) labels of the other nuclei.
        classes: names of the classes, by label.
    """
    from scipy.spatial import cKDTree

    all_um, all_label = np.concatenate([um, others_um]), np.concatenate([label, others_label])
    tree = cKDTree(all_um)
    # The second nearest, because the nearest is the nucleus itself.
    nearest = tree.query(um, [2], distance_upper_bound=REACH_UM)[0][:, 0]
    found = {"neighbours_nearest_um": np.where(np.isfinite(nearest), nearest, np.nan)}
    counts = {radius: tree.query_ball_point(um, radius, return_length=True) - 1 for radius in RADII_UM}
    found |= {f"neighbours_within_{radius}um": n for radius, n in counts.items()}
    if len(classes) < 2:
        return found
    n_around = counts[MIX_UM]
    same = np.zeros(len(um))
    with np.errstate(invalid="ignore"):
        for number, name in enumerate(classes):
            of_class = cKDTree(all_um[all_label == number])
            n = of_class.query_ball_point(um, MIX_UM, return_length=True) - (label == number)
            found[f"neighbours_fraction_{name}"] = n / n_around
            same[label == number] = n[label == number]
        found["neighbours_same_class_fraction"] = same / n_around
    return found


def measure_edge_distance(xy: np.ndarray, kept: KeptArea, slide_mpp: tuple[float, float]) -> np.ndarray:
    """Distance (N,) in um, at most ``EDGE_UM``, from positions (N, 2) in level-0 px to the edge of the kept area.

    Only the mask around the positions is read. The border of a region of interest is not an edge.
    """
    cells = xy * (np.asarray(slide_mpp) / kept.mask_mpp)
    margin = np.ceil(EDGE_UM / kept.mask_mpp).astype(int) + 1
    low = np.floor(cells.min(0)).astype(int) - margin
    high = np.floor(cells.max(0)).astype(int) + margin + 1
    mask = kept.crop(low, high)
    distance = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    column, row = (np.floor(cells).astype(int) - low).T
    squared = np.rint(distance[row, column].astype(float) ** 2)  # OpenCV's square roots depend on the position
    return np.minimum(np.sqrt(squared) * kept.mask_mpp.mean(), EDGE_UM)
