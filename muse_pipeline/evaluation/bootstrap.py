"""Intervals by drawing whole patients: nuclei of one patient are no independent witnesses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

REPEATS = 1000


def resample_sums(values: np.ndarray, groups: Sequence[str], repeats: int = REPEATS, seed: int = 0) -> np.ndarray:
    """Sums over as many groups as there are, drawn with replacement; a group comes with all its members.

    Scores made of sums (F1, PQ, accuracy) are then computed once per draw.

    Args:
        values: (N, ...) counts of N slides or pictures.
        groups: (N,) the patient of each.
        repeats: how many draws.
        seed: of the draws.

    Returns:
        (repeats, ...).
    """
    names, member = np.unique(np.asarray(groups, str), return_inverse=True)
    by_group = np.zeros((len(names), *values.shape[1:]), values.dtype)
    np.add.at(by_group, member, values)
    drawn = np.random.default_rng(seed).integers(len(names), size=(repeats, len(names)))
    return np.stack([by_group[chosen].sum(0) for chosen in drawn])


def percentile_interval(draws: np.ndarray, groups: Sequence[str]) -> tuple[float, float] | None:
    """The middle 95 % of ``draws`` (repeats,), NaN left out; None for a single group, which says nothing of others."""
    finite = draws[np.isfinite(draws)]
    if len(set(groups)) < 2 or not len(finite):
        return None
    low, high = np.percentile(finite, [2.5, 97.5])
    return float(low), float(high)
