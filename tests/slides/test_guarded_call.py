"""A reader in a separate process can neither crash nor block its caller."""

import multiprocessing
import os
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from operator import mul
from pathlib import Path

import numpy as np
import psutil
import pytest

from muse_pipeline.core.environment import all_processor_seconds
from muse_pipeline.core.errors import MppError, ProcessError, SlideError
from muse_pipeline.slides import isolation
from muse_pipeline.slides.isolation import (
    _serve,
    call_isolated,
    map_in_processes,
)


@pytest.fixture
def hasty(monkeypatch) -> None:
    monkeypatch.setattr(isolation, "LIMIT_S", 4)
    monkeypatch.setattr(isolation, "MEMORY_BYTES", 1 << 30)


def crash(path):
    os.abort()


def hang(path):
    while True:
        time.sleep(0.01)


def swell(path):
    return np.ones(1 << 31, np.uint8).sum()


def reject(path, number):
    raise MppError(f"{path}: {number}")


def fail(path):
    raise ZeroDivisionError("ours")


def double(path, number):
    return 2 * number


@pytest.mark.parametrize(
    "function, sentence",
    [
        (crash, "crashes its reader"),
        (hang, "not read within 4 s"),
        (swell, "more than 1 GiB of memory"),
    ],
)
def test_what_kills_a_reader_becomes_a_sentence(hasty, function, sentence):
    with pytest.raises(SlideError, match=sentence) as caught:
        call_isolated(function, "a.svs")
    assert str(caught.value).startswith("a.svs: ")


def test_results_and_errors_come_back():
    assert call_isolated(double, "a.svs", 21) == 42
    with pytest.raises(MppError, match=r"a\.svs: 7"):
        call_isolated(reject, "a.svs", 7)
    with pytest.raises(ZeroDivisionError, match="ours") as caught:
        call_isolated(fail, "a.svs")
    assert "in fail" in caught.value.__notes__[0]


def work(number):
    """Return the number and the process id after a tenth of a processor second."""
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    return number, os.getpid()


def test_several_processes_return_results_in_order_and_their_time_counts():
    used = all_processor_seconds()
    results = list(map_in_processes(work, range(8), threads=2))
    assert all_processor_seconds() - used > 0.8
    assert [number for number, _ in results] == list(range(8))
    assert len({process for _, process in results} - {os.getpid()}) == 2


def test_processes_of_an_earlier_map_make_the_calls_of_the_next_one():
    for factor in (2, 3):  # the processes are kept, but not the function
        results = list(map_in_processes(partial(mul, factor), range(8), threads=2))
        assert results == [factor * number for number in range(8)]


def test_a_killed_process_of_a_step_is_explained():
    with pytest.raises(
        ProcessError,
        match=r"^a process ran out of memory or time, or was killed; run the step with",
    ):
        list(map_in_processes(crash, range(2), threads=2))


def lack_memory(number):
    raise MemoryError


def test_memory_that_a_process_of_a_step_lacks_is_no_fault_of_a_file():
    with pytest.raises(ProcessError, match=r"fewer --threads$"):
        list(map_in_processes(lack_memory, range(2), threads=2))


def test_a_process_ends_without_a_traceback_if_its_caller_is_killed():
    """Nobody reads its last answer, so the connection is reset, not closed."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    theirs.send("answer")
    process = context.Process(target=_serve, args=(theirs, None))
    process.start()
    theirs.close()
    ours.close()
    process.join()
    assert process.exitcode == 0


served = []


def serve_once(path):
    """Return the process id, but crash if called for the second time in the same process."""
    if served:
        os.abort()
    served.append(path)
    return os.getpid()


def process_of(path):
    return os.getpid()


def test_a_process_serves_the_next_call_and_a_crash_in_it_is_not_the_files_fault():
    first = call_isolated(serve_once, "a.svs")
    assert call_isolated(process_of, "b.svs") == first != os.getpid()
    assert call_isolated(serve_once, "c.svs") != first


def test_a_process_whose_call_failed_serves_no_other():
    first = call_isolated(process_of, "a.svs")
    with pytest.raises(MppError):
        call_isolated(reject, "b.svs", 7)
    assert call_isolated(process_of, "c.svs") != first


@pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="processes are forked on Linux alone"
)
def test_a_process_that_was_forked_early_makes_the_first_call_after_threads_have_started():
    program = (
        "import threading\n"
        "from muse_pipeline.slides import isolation\n"
        "isolation.start_isolated()\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "isolation.start_isolated()\n"
        "assert len(isolation._idle_workers) == 1 and isolation.call_isolated(len, 'a.svs') == 5\n"
        "print(isolation._idle_workers[0].process)\n"
    )
    environ = {name: value for name, value in os.environ.items() if name != "MUSE_START_METHOD"}
    run = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True, env=environ
    )
    assert run.stdout.startswith("<ForkProcess")


@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_process_ends_with_its_caller(n_threads):
    """Here, the caller is killed.

    Callers with one thread fork the process, and other callers spawn it.
    """
    program = (
        "import os, signal, threading\nfrom muse_pipeline.slides import isolation\nif __name__ =="
        " '__main__':\n    [threading.Thread(target=threading.Event().wait, daemon=True).start()"
        f" for _ in range({n_threads - 1})]\n    assert isolation.call_isolated(len, 'a.svs') =="
        " 5\n    print(isolation._idle_workers[0].process.pid, flush=True)\n   "
        " os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=False
    )
    with suppress(psutil.NoSuchProcess):
        psutil.Process(int(run.stdout)).wait(timeout=60)
