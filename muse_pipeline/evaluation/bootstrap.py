"""Area under the ROC curve, and intervals bootstrapped over patients, since nuclei of one patient
are correlated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy import ndarray

REPEATS = 1000


def area_under_curve(scores: ndarray, is_positive: ndarray) -> float:
    """Area under the ROC curve of ``scores`` (N,), with ties counted half; NaN without positives or
    negatives.
    """
    from scipy.stats import rankdata

    is_positive = np.asarray(is_positive, bool)
    n_positive = int(is_positive.sum())
    n_negative = int((~is_positive).sum())
    if not n_positive or not n_negative:
        return float("nan")
    # The area is Mann and Whitney's U divided by the number of pairs.
    ranks = rankdata(scores)[is_positive].sum()
    return float((ranks - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def area_interval(
    scores: ndarray, is_positive: ndarray, patients: Sequence[str]
) -> tuple[float, float] | None:
    """95 % interval of ``area_under_curve`` of N scores, bootstrapped over patients; None for a
    single patient.
    """
    names, member = np.unique(np.asarray(patients, str), return_inverse=True)
    generator, draws = np.random.default_rng(0), []
    for _ in range(REPEATS):
        drawn = np.bincount(generator.integers(len(names), size=len(names)), minlength=len(names))
        index = np.repeat(np.arange(len(scores)), drawn[member])
        draws.append(area_under_curve(scores[index], is_positive[index]))
    return percentile_interval(np.array(draws), patients)


def resample_sums(values: ndarray, groups: Sequence[str], repeats: int = REPEATS) -> ndarray:
    """Sums (repeats, ...) of ``values`` (N, ...) over bootstrap samples of the N groups' members.

    A sample contains as many groups as there are, drawn with replacement, with all their members.
    Scores that depend only on sums (F1, PQ, accuracy) then need to be computed only once per draw.
    """
    names, member = np.unique(np.asarray(groups, str), return_inverse=True)
    by_group = np.zeros((len(names), *values.shape[1:]), values.dtype)
    np.add.at(by_group, member, values)
    drawn = np.random.default_rng(0).integers(len(names), size=(repeats, len(names)))
    return np.stack([by_group[chosen].sum(0) for chosen in drawn])


def percentile_interval(draws: ndarray, groups: Sequence[str]) -> tuple[float, float] | None:
    """Central 95 % interval of ``draws`` (repeats,), NaN excluded; None for a single group or if
    all are NaN.
    """
    finite = draws[np.isfinite(draws)]
    if len(set(groups)) < 2 or not len(finite):
        return None
    low, high = np.percentile(finite, [2.5, 97.5])
    return float(low), float(high)


# with five, all differ in the same direction by chance in 1 of 16 cases, and the interval excludes
# 0
MIN_PATIENTS = 6


def compare_scores(
    before: ndarray,
    after: ndarray,
    patients: Sequence[str],
    score: Callable[[ndarray], ndarray],
    repeats: int = REPEATS,
) -> dict[str, Any]:
    """Scores of two networks, and their difference (after minus before) with an interval
    bootstrapped over patients.

    The same patients are sampled for both networks, so that differences between patients do not
    widen the interval. ``before`` and ``after`` are counts (N, ...) in N pictures or slides;
    ``score`` converts summed counts to scores.
    """
    both = np.stack([before, after], 1)
    first, second = score(both.sum(0))
    drawn = score(resample_sums(both, patients, repeats))
    return {
        "before": float(first),
        "after": float(second),
        "difference": float(second - first),
        "interval": percentile_interval(drawn[:, 1] - drawn[:, 0], patients),
        "n_patients": len(set(patients)),
    }
