"""Cells of tables with 95 % intervals by bootstrap over patients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from muse_pipeline.evaluation.bootstrap import compare_scores, percentile_interval, resample_sums


def with_interval(measure: Callable, values: np.ndarray, patients: list[str]) -> str:
    """A measure of (N, ...) sums of crops, and its interval over patients."""
    low, high = percentile_interval(measure(resample_sums(values, patients)), patients)
    return f"{measure(values.sum(0)):.3f} ({low:.3f} to {high:.3f})"


def change_from(measure: Callable, before: np.ndarray, after: np.ndarray, patients: list[str]) -> str:
    """The difference of a measure, paired by crop, and its interval over patients."""
    found = compare_scores(before, after, patients, measure)
    low, high = found["interval"]
    return f"{found['difference']:+.3f} ({low:+.3f} to {high:+.3f})"
