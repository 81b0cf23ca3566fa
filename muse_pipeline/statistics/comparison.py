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

from muse_pipeline.core.errors import ConfigError
from muse_pipeline.core.text import count_noun

N_PERMUTATIONS, N_BOOTSTRAPS = 9_999, 2_000
AT_ONCE = 500  # permutations or bootstrap samples held in memory together
SEED = 0


@dataclass(frozen=True)
class Difference:
    """Comparison of two groups by M measures.

    The results of tests are (M,) each, and NaN where a group has fewer than two values of the
    measure.
    """

    n: np.ndarray  # (2, M) number of patients with a value
    mean: np.ndarray  # (2, M) mean of each group
    # Hedges' g: (second mean - first mean) / pooled standard deviation, corrected for small groups
    effect: np.ndarray
    low: np.ndarray  # lower end of the 95 % bootstrap interval of the effect
    high: np.ndarray  # upper end of the interval
    p: np.ndarray  # two-sided p of a permutation test of the difference in means
    q: (
        np.ndarray
    )  # p adjusted for the number of measures: the false discovery rate of Benjamini and Hochberg


def mean_by_patient(values: np.ndarray, patients: list[str]) -> tuple[np.ndarray, list[str]]:
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
    group_of_slide: Mapping[str, str], patient_of_slide: Mapping[str, str], left_out: str = ""
) -> dict[str, str]:
    """The group of every patient; ``left_out`` describes the excluded slides in messages."""
    group_of: dict[str, str] = {}
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


def compare_pairs(values: np.ndarray, groups: list[str]) -> Iterator[tuple[str, str, Difference]]:
    """Yield each pair of groups and its comparison, from the values (P, M) of P patients and their
    ``groups``.
    """
    label = np.array(groups)
    for first, second in combinations(sorted(set(groups)), 2):
        chosen = (label == first) | (label == second)
        yield first, second, compare_groups(values[chosen], label[chosen] == second)


def compare_groups(
    values: np.ndarray,
    is_second: np.ndarray,
    n_permutations: int = N_PERMUTATIONS,
    n_bootstraps: int = N_BOOTSTRAPS,
) -> Difference:
    """Compare two groups of patients by M measures, given values (P, M), NaN if unknown, and
    ``is_second`` (P,).
    """
    random = np.random.default_rng(SEED)
    has_value = np.isfinite(values)
    offset = np.nanmean(np.where(has_value.any(0), values, 0), 0)
    centred = np.where(has_value, values - offset, 0)  # centred, so that squares lose no digits
    sums = np.hstack([has_value, centred, centred**2]).astype(float)
    labels = np.stack([~is_second, is_second])
    n, mean, effect = _describe(labels.astype(float), sums)
    usable = (n >= 2).all(0)
    low, high = _bootstrap(labels, sums, n_bootstraps, random)
    p = np.full(values.shape[1], np.nan)
    for pattern in np.unique(
        has_value[:, usable], axis=1
    ).T:  # each measure is permuted over the patients with a value
        same = usable & (has_value == pattern[:, None]).all(0)
        p[same] = _permute(
            is_second[pattern], centred[np.ix_(pattern, same)], n_permutations, random
        )
    columns = (np.where(usable, column, np.nan) for column in (effect, low, high))
    return Difference(n.astype(int), mean + offset, *columns, p, adjust(p))


def _describe(weights: np.ndarray, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts and means (..., 2, M) and Hedges' g (..., M) of groups, given weights (..., 2, P) of
    the patients.
    """
    n, total, squares = np.split(weights @ sums, 3, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = total / n
        within = (squares - n * mean**2).sum(-2)
        freedom = n.sum(-2) - 2
        g = (mean[..., 1, :] - mean[..., 0, :]) / np.sqrt(np.maximum(within, 0) / freedom)
        # Hedges' correction for the bias of small groups.
        return n, mean, g * (1 - 3 / (4 * freedom - 1))


def _bootstrap(
    labels: np.ndarray, sums: np.ndarray, n_bootstraps: int, random: np.random.Generator
) -> np.ndarray:
    """The ends (2, M) of the 95 % interval of the effect; NaN where no sample has an effect."""
    effects = []
    for start in range(0, n_bootstraps, AT_ONCE):
        size = min(AT_ONCE, n_bootstraps - start)
        weights = np.zeros((size, *labels.shape))
        for group, members in enumerate(map(np.flatnonzero, labels)):
            # The sums only need the number of times that each patient is sampled.
            shares = np.full(len(members), 1 / len(members))
            weights[:, group, members] = random.multinomial(len(members), shares, size)
        effects.append(_describe(weights, sums)[2])
    samples = np.concatenate(effects)
    samples[~np.isfinite(samples)] = np.nan
    has_effect = ~np.isnan(samples).all(0)
    ends = np.full((2, samples.shape[1]), np.nan)
    ends[:, has_effect] = np.nanpercentile(samples[:, has_effect], [2.5, 97.5], axis=0)
    return ends


def _permute(
    is_second: np.ndarray, values: np.ndarray, n: int, random: np.random.Generator
) -> np.ndarray:
    """(M,) p: fraction of assignments, including the observed one, with at least the observed
    difference.
    """
    total, n_second = values.sum(0), is_second.sum()

    def differences(labels: np.ndarray) -> np.ndarray:
        second = labels.astype(float) @ values
        return np.abs(second / n_second - (total - second) / (len(values) - n_second))

    # Equal differences may vary in their last bits, because the values are summed in a different
    # order.
    least = differences(is_second[None])[0] * (1 - 1e-9)
    n_as_large = np.ones(values.shape[1])
    for start in range(0, n, AT_ONCE):
        labels = np.broadcast_to(is_second, (min(AT_ONCE, n - start), len(is_second)))
        n_as_large += (differences(random.permuted(labels, axis=1)) >= least).sum(0)
    return n_as_large / (n + 1)


def adjust(p: np.ndarray) -> np.ndarray:
    """Adjusted p (M,), NaN if p is; Benjamini & Hochberg, J R Stat Soc B 1995."""
    from scipy.stats import false_discovery_control  # takes half a second to load

    q, tested = np.full(len(p), np.nan), np.isfinite(p)
    q[tested] = false_discovery_control(p[tested])
    return q
