import numpy as np
import pytest

from muse_pipeline.evaluation.bootstrap import compare_scores


def accuracy(confusion):
    return 100 * np.trace(confusion, axis1=-2, axis2=-1) / confusion.sum((-2, -1))


def test_what_is_hard_for_both_does_not_widen_the_interval():
    """Patients differ by tens of points, but the two networks by only one point in each patient."""
    random = np.random.default_rng(0)
    right = random.integers(20, 90, 10)
    before, after = (np.array([[[n, 100 - n], [0, 0]] for n in right + more]) for more in (0, 1))
    patients = [f"p{n}" for n in range(10)]
    score = compare_scores(before, after, patients, accuracy, repeats=300)
    assert score["difference"] == pytest.approx(1)
    assert score["interval"] == pytest.approx((1, 1))
    assert score["after"] - score["before"] == pytest.approx(score["difference"])
    assert compare_scores(after, before, patients, accuracy, repeats=300)[
        "interval"
    ] == pytest.approx((-1, -1))
