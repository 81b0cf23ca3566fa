"""One-to-one matching of predicted to true nuclei."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree


def match_points(predicted_xy: np.ndarray, score: np.ndarray, true_xy: np.ndarray, radius: float) -> np.ndarray:
    """By descending score, each prediction takes the nearest true point within ``radius`` that is still free.

    This is the protocol of the point-detection papers (DPA-P2PNet, DeNuC; 3 um). All true points rank predictions
    alike, by score, so the sequence has one stable outcome, and deferred acceptance finds it: every unplaced prediction
    asks its nearest point that has not refused it, and every point keeps its best-scored asker.

    Args:
        predicted_xy: (P, 2).
        score: (P,); a tie goes to the lower index.
        true_xy: (T, 2), same unit.
        radius: largest distance, same unit.

    Returns:
        (P,) index of the true point taken, or -1.
    """
    taken = np.full(len(predicted_xy), -1)
    if not len(predicted_xy) or not len(true_xy):
        return taken
    pairs = cKDTree(predicted_xy).sparse_distance_matrix(cKDTree(true_xy), radius, output_type="ndarray")
    order = np.lexsort((pairs["j"], pairs["v"], pairs["i"]))
    asker, point = pairs["i"][order], pairs["j"][order]
    start = np.searchsorted(asker, np.arange(len(predicted_xy) + 1))
    rank = np.empty(len(score), int)
    rank[np.lexsort((np.arange(len(score)), -np.asarray(score)))] = np.arange(len(score))
    following = start[:-1].copy()  # the next wish of each prediction
    holder = np.full(len(true_xy), -1)
    free = np.flatnonzero(following < start[1:])
    while len(free):
        wish = point[following[free]]
        following[free] += 1
        best = np.full(len(true_xy), len(score))
        held = np.flatnonzero(holder >= 0)
        best[held] = rank[holder[held]]
        np.minimum.at(best, wish, rank[free])
        refused = free[best[wish] < rank[free]]
        accepted = free[best[wish] == rank[free]]
        accepted_wish = wish[best[wish] == rank[free]]
        ousted = holder[accepted_wish]
        holder[accepted_wish] = accepted
        free = np.concatenate([refused, ousted[ousted >= 0]])
        free = free[following[free] < start[free + 1]]
    placed = np.flatnonzero(holder >= 0)
    taken[holder[placed]] = placed
    return taken
