"""Stores that are written at the same time end at the same time."""

from concurrent.futures import ThreadPoolExecutor

from muse_pipeline.store.write import zarr_at_rest


def test_two_stores_do_not_wait_for_each_other():
    def end_often() -> int:
        for _ in range(50):
            with zarr_at_rest():
                pass
        return 50

    with ThreadPoolExecutor(2) as pool:
        ends = [pool.submit(end_often) for _ in range(2)]
        assert [end.result(timeout=60) for end in ends] == [50, 50]
