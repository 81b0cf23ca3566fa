"""Nearest neighbours compared with scikit-learn's, and edge cases."""

import numpy as np
import pytest
import torch

from muse_pipeline.methods.muse.validation import TEMPERATURE, classify_by_neighbours


@pytest.mark.parametrize("k", [10, 20, 100, 200, 500])
def test_two_thousand_random_vectors_get_the_classes_that_scikit_learn_gives(k):
    neighbors = pytest.importorskip("sklearn.neighbors")
    random = np.random.default_rng(k)
    bank, query = random.normal(size=(1000, 16)), random.normal(size=(2000, 16))
    label = random.integers(0, 3, 1000)
    expected = neighbors.KNeighborsClassifier(
        k,
        metric="cosine",
        algorithm="brute",
        weights=lambda distance: np.exp((1 - distance) / TEMPERATURE),
    ).fit(bank, label)
    chance = np.sort(expected.predict_proba(query), axis=1)
    tied = chance[:, -1] - chance[:, -2] < 1e-5  # float32 and float64 may differ here
    ours = classify_by_neighbours(*map(torch.from_numpy, (bank, label, query)), 3, k).numpy()
    assert (ours == expected.predict(query))[~tied].all()
    assert tied.mean() < 0.001


def test_near_neighbours_weigh_more_than_many():
    bank = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8]])
    for k in (1, 3):
        assert classify_by_neighbours(
            bank, torch.tensor([0, 1, 1]), torch.tensor([[5.0, 0.0]]), 2, k
        ).tolist() == [0]


def test_a_small_bank_votes_whole_and_no_query_is_no_answer():
    bank, label = torch.eye(3), torch.tensor([0, 1, 1])
    assert classify_by_neighbours(bank, label, torch.ones(1, 3), 2).tolist() == [1]
    assert classify_by_neighbours(bank, label, torch.zeros(0, 3), 2).shape == (0,)
