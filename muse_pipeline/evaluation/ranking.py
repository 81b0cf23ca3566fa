"""Area under the ROC curve, with an interval over patients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

from muse_pipeline.evaluation.bootstrap import REPEATS, percentile_interval


def area_under_curve(scores: np.ndarray, is_positive: np.ndarray) -> float:
    """Share of pairs of a positive and a negative that ``scores`` (N,) order correctly, with ties counted half.

    It is NaN without both kinds.
    """
    is_positive = np.asarray(is_positive, bool)
    n_positive, n_negative = int(is_positive.sum()), int((~is_positive).sum())
    if not n_positive or not n_negative:
        return float("nan")
    ranks = rankdata(scores)[is_positive].sum()
    return float((ranks - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def area_interval(
    scores: np.ndarray, is_positive: np.ndarray, patients: Sequence[str], repeats: int = REPEATS, seed: int = 0
) -> tuple[float, float] | None:
    """95 % interval of ``area_under_curve`` by drawing whole patients; None for a single patient.

    Args:
        scores: (N,) scores.
        is_positive: (N,) bool.
        patients: (N,) names of the patients.
        repeats: number of draws of the bootstrap.
        seed: seed of the draws.
    """
    names, member = np.unique(np.asarray(patients, str), return_inverse=True)
    generator, draws = np.random.default_rng(seed), []
    for _ in range(repeats):
        drawn = np.bincount(generator.integers(len(names), size=len(names)), minlength=len(names))
        index = np.repeat(np.arange(len(scores)), drawn[member])
        draws.append(area_under_curve(scores[index], is_positive[index]))
    return percentile_interval(np.array(draws), patients)
