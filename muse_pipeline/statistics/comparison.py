"""Tests between groups of patients: effect sizes with bootstrap intervals, permutation tests, false
discovery rate.

The unit is the patient. Nuclei of a slide, and slides of a patient, resemble each other, so a test
that treats them as independent finds differences where there are none (``docs/guide/features.md``
has an example).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy import ndarray

from muse_pipeline.core.errors import ConfigError
from muse_pipeline.core.text import count_noun

N_PERMUTATIONS, N_BOOTSTRAPS = 9_999, 2_000
AT_ONCE = 500  # permutations held in memory together
SEED = 0


@dataclass(frozen=True)
class Difference:
    """Comparison of two groups by M measures.

    The results of tests are (M,) each, and NaN where a group has fewer than two values of the
    measure.
    """

    n: ndarray  # (2, M) number of patients with a value
    mean: ndarray  # (2, M) mean of each group
    # Hedges' g: (second mean - first mean) / pooled standard deviation, corrected for small groups
    effect: ndarray
    low: ndarray  # lower end of the 95 % bootstrap interval of the effect
    high: ndarray  # upper end of the interval
    p: ndarray  # two-sided p of a permutation test of the difference in means
    # p adjusted for the number of measures: the false discovery rate of Benjamini and Hochberg
    q: ndarray


def mean_by_patient(values: ndarray, patients: list[str]) -> tuple[ndarray, list[str]]:
    """Means (P, M) per patient of the values (S, M) of slides, ignoring NaN, and the names of the
    patients.
    """
    names, index = np.unique(patients, return_inverse=True)
    has_value = np.isfinite(values)
    sums, counts = np.zeros((2, len(names), values.shape[1]))
    np.add.at(sums, index, np.where(has_value, values, 0))
    np.add.at(counts, index, has_value)
    with np.errstate(invalid="ignore"):
        return sums / counts, names.tolist()


def require_groups(
    group_of_slide: Mapping[str, str], patient_of_slide: Mapping[str, str], left_out: str
) -> dict[str, str]:
    """The group of every patient; ``left_out`` describes the excluded slides in messages."""
    group_of = {}
    for slide, group in group_of_slide.items():
        patient = patient_of_slide[slide]
        if group_of.setdefault(patient, group) != group:
            raise ConfigError(
                f"patient '{patient}' is in the groups '{group_of[patient]}' and '{group}'; correct"
                " the sheet"
            )
    names = sorted(set(group_of.values()))
    without = f" ({left_out}; include_doubtful keeps them)" if left_out else ""
    if len(names) < 2:
        groups = f"{count_noun(len(names), 'group')}{''.join(f' ({name})' for name in names)}"
        raise ConfigError(f"found {groups}; give slides of at least two groups{without}")
    for name in names:
        if list(group_of.values()).count(name) < 2:
            raise ConfigError(
                f"group '{name}' has one patient, so chance cannot be estimated; add patients or"
                f" leave the group out{without}"
            )
    return group_of


def compare_pairs(values: ndarray, groups: list[str]) -> Iterator[tuple[str, str, Difference]]:
    """Yield each pair of groups and its comparison, from the values (P, M) of P patients and their
    ``groups``.
    """
    label = np.array(groups)
    for first, second in combinations(sorted(set(groups)), 2):
        chosen = (label == first) | (label == second)
        yield first, second, compare_groups(values[chosen], label[chosen] == second)


def compare_groups(
    values: ndarray,
    is_second: ndarray,
    n_permutations: int = N_PERMUTATIONS,
    n_bootstraps: int = N_BOOTSTRAPS,
) -> Difference:
    """Compare two groups of patients by M measures, given values (P, M), NaN if unknown, and
    ``is_second`` (P,).

    All assignments are tried if there are at most ``n_permutations``.
    """
    from scipy import stats  # takes half a second to load

    has_value = np.isfinite(values)
    labels = np.stack([~is_second, is_second])
    n = labels.astype(int) @ has_value
    with np.errstate(invalid="ignore"):
        mean = labels.astype(float) @ np.where(has_value, values, 0) / n
    usable = (n >= 2).all(0)
    effect, low, high, p, q = np.full((5, values.shape[1]), np.nan)
    random = np.random.default_rng(SEED)
    # Each measure is tested over the patients with a value.
    for pattern in np.unique(has_value[:, usable], axis=1).T:
        same = usable & (has_value == pattern[:, None]).all(0)
        groups = [values[np.ix_(own & pattern, same)] for own in labels]
        effect[same] = hedges_g(*groups)
        drawn = (
            hedges_g(*(group[random.integers(len(group), size=len(group))] for group in groups))
            for _ in range(n_bootstraps)
        )
        low[same], high[same] = _interval(np.array(list(drawn)))
        p[same] = stats.permutation_test(
            groups,
            lambda first, second, axis: np.abs(second.mean(axis) - first.mean(axis)),
            n_resamples=n_permutations,
            alternative="greater",
            random_state=random,
            axis=0,
            vectorized=True,
            batch=AT_ONCE,
        ).pvalue
    q[usable] = stats.false_discovery_control(p[usable])
    return Difference(n, mean, effect, low, high, p, q)


def hedges_g(first: ndarray, second: ndarray) -> ndarray:
    """Hedges' g (M,) of two groups of patients, (P, M) each."""
    freedom = len(first) + len(second) - 2
    within = len(first) * first.var(0) + len(second) * second.var(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        g = (second.mean(0) - first.mean(0)) / np.sqrt(within / freedom)
    return g * (1 - 3 / (4 * freedom - 1))  # corrected for the bias of small groups


def _interval(samples: ndarray) -> ndarray:
    """The ends (2, M) of the 95 % interval of samples (B, M); NaN where none is finite."""
    samples = np.where(np.isfinite(samples), samples, np.nan)
    has_any = ~np.isnan(samples).all(0)
    ends = np.full((2, samples.shape[1]), np.nan)
    ends[:, has_any] = np.nanpercentile(samples[:, has_any], [2.5, 97.5], axis=0)
    return ends
