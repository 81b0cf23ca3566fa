"""Batches that are prepared in advance: order, errors, and what ends with a run."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from muse_pipeline.core.errors import ProviderError, StoreError
from muse_pipeline.data.augment import Prefetched


def unchanged(batch):
    return batch


def fail_at_3(number):
    if number == 3:
        raise StoreError("store.zarr: is damaged")
    return number


def end_at_3(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_batches_that_no_one_asks_for_are_given_up_at_the_end():
    made, gate = [], threading.Event()

    def slow(number):
        made.append(number)
        if number:
            gate.wait(30)
        return number

    threading.Timer(0.2, gate.set).start()
    with Prefetched(slow, 1, 2) as stream:
        assert stream(0) == 0
    assert len(made) <= 3  # the first and one per thread; queued batches are dropped


@pytest.mark.parametrize("finish", [None, unchanged], ids=["threads", "processes"])
def test_a_batch_that_cannot_be_made_raises_where_it_is_asked_for(finish):
    with Prefetched(fail_at_3, 1, 2, finish) as stream:
        assert [stream(number) for number in range(3)] == [0, 1, 2]
        with pytest.raises(StoreError, match=r"^store\.zarr: is damaged$"):
            stream(3)


def test_a_process_that_the_system_ends_is_one_sentence():
    with Prefetched(end_at_3, 1, 1, unchanged) as stream:
        assert [stream(number) for number in range(3)] == [0, 1, 2]
        with pytest.raises(ProviderError, match="fewer --loaders"):
            stream(3)


def is_running(process):
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


CALLER = """
import time
from test_prefetch import Prefetched, unchanged
if __name__ == "__main__":
    stream = Prefetched(unchanged, 1, 1, unchanged)
    print(stream(0), *stream._processes._processes, flush=True)
    time.sleep(300)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_processes_end_with_a_run_that_is_killed(tmp_path):
    (tmp_path / "caller.py").write_text(CALLER)
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    command = [sys.executable, tmp_path / "caller.py"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths}
    ) as run:
        _, loader = map(int, run.stdout.readline().split())
        assert is_running(loader)
        run.kill()
    deadline = time.monotonic() + 30
    while is_running(loader):
        assert time.monotonic() < deadline
        time.sleep(0.1)
