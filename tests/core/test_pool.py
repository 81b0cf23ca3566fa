"""Processes that make calls at the same time."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial

import psutil

from muse_pipeline.core.environment import _children
from muse_pipeline.core.pool import ProcessPool


def square_elsewhere(kills_itself_at, n):
    """The square of ``n``; one call ends its process, as a system that lacks memory does."""
    if n == kills_itself_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return n**2, os.getpid()


def square_here(n):
    return n**2, os.getpid()


def test_calls_are_shared_and_those_of_a_killed_process_are_made_here():
    for kills_itself_at in (-1, 0):
        with ProcessPool(1, bool, ("json",)) as pool:
            ends = dict(pool.map(partial(square_elsewhere, kills_itself_at), range(6), square_here))
        assert {n: square for n, (square, _) in ends.items()} == {n: n**2 for n in range(6)}
        if kills_itself_at == 0:
            assert ends[0][1] == os.getpid()


def count_costly(_):
    return len(multiprocessing.active_children()), len([*_children()])


def test_costs_of_steps_here_leave_out_the_processes_of_a_pool():
    n_before, n_costly = count_costly(0)
    with ProcessPool(2, bool, ()) as pool:
        ends = [end for _, end in pool.map(abs, range(9), count_costly) if isinstance(end, tuple)]
    assert ends and set(ends) == {(n_before + 2, n_costly)}


def test_processes_end_with_the_one_that_started_them(tmp_path):
    program = (
        "from time import sleep; from muse_pipeline.core.pool import ProcessPool\n"
        "if __name__ == '__main__':\n"
        "    pool = ProcessPool(1, bool, ())\n"
        "    for _ in pool.map(sleep, [100, 0], lambda n: sleep(100)): pass\n"
    )
    (tmp_path / "program.py").write_text(program)
    parent = subprocess.Popen([sys.executable, str(tmp_path / "program.py")])
    started = time.monotonic()
    while not (children := find_workers(parent.pid)) and time.monotonic() < started + 60:
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    assert children
    assert not psutil.wait_procs(children, timeout=30)[1]


def find_workers(pid):
    """The processes of a pool, without the tracker of resources."""
    children = psutil.Process(pid).children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]
