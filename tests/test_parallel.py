"""The results of several threads are returned in a fixed order."""

import pytest

from muse_pipeline.core.process import map_in_order


@pytest.mark.parametrize("ahead", [1, 8])
def test_map_in_order_keeps_the_order_and_never_runs_farther_ahead(ahead):
    started = []

    def note(item):
        started.append(item)
        return item

    results = map_in_order(note, range(50), threads=3, ahead=ahead)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    assert max(started) <= 4 + 3 + ahead
    assert list(results) == list(range(5, 50))
