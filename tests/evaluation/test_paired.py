import numpy as np
import pytest

from muse_pipeline.evaluation.bootstrap import CLOSE, FEW, NO, YES, compare_means, compare_scores, decide
from muse_pipeline.evaluation.detection import accuracy


def test_what_is_hard_for_both_does_not_widen_the_interval():
    """Patients differ by tens of points, the two networks by one point in every patient."""
    random = np.random.default_rng(0)
    right = random.integers(20, 90, 10)
    before, after = (np.array([[[n, 100 - n], [0, 0]] for n in right + more]) for more in (0, 1))
    patients = [f"p{n}" for n in range(10)]
    score = compare_scores(before, after, patients, accuracy, repeats=300)
    assert (score["difference"], score["verdict"]) == (pytest.approx(1), YES)
    assert score["interval"] == pytest.approx((1, 1))
    assert score["after"] - score["before"] == pytest.approx(score["difference"])
    assert compare_scores(after, before, patients, accuracy, repeats=300)["verdict"] == NO


def test_means_are_those_of_nuclei_and_patients_are_drawn_whole():
    patient = np.repeat(["a", "b", "c", "d", "e", "f"], [10, 20, 30, 10, 20, 30])
    before = np.random.default_rng(1).uniform(0, 100, len(patient))
    after = before + np.where(np.isin(patient, ["a", "b", "c"]), 5.0, -5.0)
    score = compare_means(before, after, patient, repeats=500)
    assert score["before"] == pytest.approx(before.mean())
    assert score["difference"] == pytest.approx(0, abs=1e-9)
    assert (score["n_patients"], score["verdict"]) == (6, CLOSE)
    low, high = score["interval"]
    assert low < -2
    assert high > 2


def test_a_verdict_needs_an_interval_without_zero_and_patients_enough():
    assert [decide(ends, 6) for ends in ((0.1, 2), (-2, -0.1), (-1, 1), (0, 0), None)] == [YES, NO, CLOSE, CLOSE, FEW]
    assert decide((1, 2), 5) == FEW
