"""Close pairs of nuclei, compared with a search through all pairs."""

import numpy as np

from muse_pipeline.nuclei.pairs import close_pairs


def test_close_pairs_are_those_of_a_search_through_all():
    xy = np.random.default_rng(2).uniform(-50, 50, (400, 2))
    xy[:20] = xy[20:40]
    distance = np.hypot(*(xy[:, None] - xy).T)
    first, second = np.nonzero(np.triu(distance <= 4, 1))
    pairs = close_pairs(xy, 4.0)
    assert sorted(pairs.tolist()) == np.stack([first, second], 1).tolist()
    assert len(close_pairs(xy[:1], 4.0)) == 0


def test_positions_exactly_a_radius_apart_are_close_wherever_cells_begin():
    radius = 0.1
    steps = np.arange(2000) * radius + 0.7
    for xy in (np.stack([steps, np.zeros(2000)], 1), np.stack([np.zeros(2000), steps], 1)):
        apart = np.abs(np.diff(steps)) ** 2 <= radius**2
        assert {tuple(pair) for pair in close_pairs(xy, radius)} == {
            (i, i + 1) for i in np.flatnonzero(apart)
        }
