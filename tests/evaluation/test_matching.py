"""One-to-one matching compared with a literal implementation of the protocol."""

import numpy as np
import pytest

from muse_pipeline.evaluation.detection import match_points


def match_literally(predicted, score, true, radius):
    """Match predictions by descending score, each to the nearest true point that is not matched yet."""
    taken = np.full(len(predicted), -1)
    free = set(range(len(true)))
    for index in np.argsort(-score, kind="stable"):
        near = [(np.hypot(*(true[j] - predicted[index])), j) for j in free]
        near = [pair for pair in near if pair[0] <= radius]
        if near:
            taken[index] = min(near)[1]
            free.discard(taken[index])
    return taken


@pytest.mark.parametrize("seed", range(20))
def test_equals_the_literal_protocol(seed):
    generator = np.random.default_rng(seed)
    predicted, true = generator.uniform(0, 30, (60, 2)), generator.uniform(0, 30, (50, 2))
    score = generator.uniform(size=60).round(1)  # with ties
    expected = match_literally(predicted, score, true, 3.0)
    assert match_points(predicted, score, true, 3.0).tolist() == expected.tolist()


def test_the_surer_prediction_takes_the_point_though_another_is_nearer():
    taken = match_points(np.array([(0.0, 0.0), (2.0, 0.0)]), np.array([0.5, 0.9]), np.array([(0.5, 0.0)]), 3.0)
    assert taken.tolist() == [-1, 0]


def test_nothing_matches_nothing():
    none = np.zeros((0, 2))
    assert match_points(none, np.zeros(0), np.zeros((3, 2)), 3.0).tolist() == []
    assert match_points(np.zeros((2, 2)), np.ones(2), none, 3.0).tolist() == [-1, -1]
