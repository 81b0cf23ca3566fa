"""The bootstrap resamples whole patients; a single patient gives no interval."""

import numpy as np

from muse_pipeline.evaluation.bootstrap import percentile_interval, resample_sums


def test_sums_are_of_as_many_patients_as_there_are():
    values = np.array([1, 10, 100])
    drawn = resample_sums(values, ["a", "b", "b"], repeats=100)
    assert set(drawn.tolist()) == {2, 111, 220}
    assert drawn.tolist() == resample_sums(values, ["a", "b", "b"], repeats=100).tolist()


def test_intervals():
    draws = np.arange(101.0)
    assert percentile_interval(draws, ["a", "b"]) == (2.5, 97.5)
    assert percentile_interval(np.append(draws, np.nan), ["a", "b"]) == (2.5, 97.5)
    assert percentile_interval(draws, ["a", "a"]) is None
    assert percentile_interval(np.full(3, np.nan), ["a", "b"]) is None
