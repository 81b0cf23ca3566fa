"""Several threads, one order."""

from muse_pipeline.parallel import map_in_order


def test_map_in_order_keeps_the_order_and_never_runs_ahead():
    started = []

    def note(item):
        started.append(item)
        return item

    results = map_in_order(note, range(50), threads=3)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    assert max(started) <= 4 + 3 + 1
    assert list(results) == list(range(5, 50))
