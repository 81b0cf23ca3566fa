"""Which differences between two runtimes count."""

import numpy as np
import pytest

from muse_pipeline.core.types import Frame
from muse_pipeline.export.parity import TOLERANCES, compare
from muse_pipeline.nuclei.table import Nuclei

THRESHOLD = 0.3


def nuclei(*rows):
    """Nuclei from rows of (x, y, score)."""
    xy, score = np.array([row[:2] for row in rows]), np.array([row[2] for row in rows])
    n = len(rows)
    return Nuclei(
        xy, Frame.WINDOW, np.ones((n, 4)), np.zeros(n, int), score, np.ones((n, 1)), np.ones((n, 2))
    )


@pytest.mark.parametrize(
    "found, n_unmatched",
    [
        ([(20, 20, 0.5), (60, 60, 0.7)], 0),
        ([(24, 20, 0.5), (60, 60, 0.7)], 0),  # the neighbouring cell has the same score: a tie
        ([(24, 20, 0.6), (60, 60, 0.7)], 2),  # that cell has a higher score: no tie
        ([(20.9, 20, 0.5), (60, 60, 0.7)], 0),  # a nearby point with the same score
        ([(20.9, 20, 0.6), (60, 60, 0.7)], 2),
        ([(32, 20, 0.5), (60, 60, 0.7)], 2),  # a different nucleus
        ([(60, 60, 0.7)], 1),
        (
            [(20, 20, 0.5), (60, 60, 0.7), (40, 40, 0.3005)],
            0,
        ),  # the third score is just above the threshold
        ([(20, 20, 0.5), (60, 60, 0.7), (40, 40, 0.4)], 1),
    ],
)
def test_a_nucleus_that_one_finds_counts_unless_rounding_decides(found, n_unmatched):
    far = [(500 + 20 * i, 500, 0.6) for i in range(60)]
    expected = nuclei((20, 20, 0.5), (60, 60, 0.7), *far)
    assert (
        compare([(expected, nuclei(*found, *far))], THRESHOLD, TOLERANCES["fp32"]).n_unmatched
        == n_unmatched
    )


def test_a_shift_of_all_nuclei_is_no_tie():
    expected = [(20 + 20 * i, 20, 0.6) for i in range(60)]
    found = [(x + 2, y, score) for x, y, score in expected]
    assert (
        compare([(nuclei(*expected), nuclei(*found))], THRESHOLD, TOLERANCES["fp32"]).n_unmatched
        == 120
    )
