"""Intervals by drawing whole patients: nuclei of one patient are no independent witnesses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

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
    """The middle 95 % of ``draws`` (repeats,), NaN left out; None for a single group."""
    finite = draws[np.isfinite(draws)]
    if len(set(groups)) < 2 or not len(finite):
        return None
    low, high = np.percentile(finite, [2.5, 97.5])
    return float(low), float(high)


YES, NO, CLOSE, FEW = "yes", "no", "too close to call", "too few patients to call"
MIN_PATIENTS = 6  # five that all agree do so by chance once in sixteen times, and their bootstrap never doubts it


def compare_scores(
    before: np.ndarray,
    after: np.ndarray,
    patients: Sequence[str],
    score: Callable[[np.ndarray], np.ndarray],
    repeats: int = REPEATS,
) -> dict[str, Any]:
    """A score of both networks, after less before, the 95 % interval of that difference over patients, and a verdict.

    The same patients are drawn for both, so that what makes a patient hard for either does not widen the interval.

    Args:
        before: (N, ...) counts of N patients.
        after: of the same shape.
        patients: (N,) their names.
        score: (..., *counts) summed counts -> (...) score; more is better.
        repeats: draws of the bootstrap.
    """
    both = np.stack([before, after], 1)
    first, second = score(both.sum(0))
    drawn = score(resample_sums(both, patients, repeats))
    interval = percentile_interval(drawn[:, 1] - drawn[:, 0], patients)
    return {
        "before": float(first),
        "after": float(second),
        "difference": float(second - first),
        "interval": interval,
        "n_patients": len(set(patients)),
        "verdict": decide(interval, len(set(patients))),
    }


def compare_means(
    before: np.ndarray, after: np.ndarray, patient: Sequence[str], repeats: int = REPEATS
) -> dict[str, Any]:
    """``compare_scores`` of the means of values that are given for each of M nuclei.

    Args:
        before: (M,) values.
        after: (M,) values of the same nuclei.
        patient: (M,) whose nucleus it is.
        repeats: draws of the bootstrap.
    """
    names, member = np.unique(np.asarray(patient, str), return_inverse=True)
    sums = np.zeros((2, len(names), 2))  # value and count
    for side, values in enumerate((before, after)):
        np.add.at(sums[side], member, np.stack([values, np.ones(len(values))], 1))
    return compare_scores(*sums, names, lambda summed: summed[..., 0] / summed[..., 1], repeats)


def decide(interval: tuple[float, float] | None, n_patients: int) -> str:
    """Whether a difference is one: yes or no where its interval leaves 0 out, above or below."""
    if interval is None or n_patients < MIN_PATIENTS:
        return FEW
    low, high = interval
    return YES if low > 0 else NO if high < 0 else CLOSE
