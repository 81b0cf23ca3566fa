"""The process from which jobs are forked: steps end in the same way as `muse`, and none outlives its caller."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

SCRIPT = Path(__file__).parents[2] / "workflow/scripts/warm_muse.py"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="steps are forked on Linux alone")


@contextmanager
def serve(folder: Path) -> Iterator[subprocess.Popen]:
    """Start the process, with its socket in ``folder``."""
    command = [sys.executable, SCRIPT, "serve", folder / "socket"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        while not (folder / "socket").exists():
            assert process.poll() is None
        yield process
        process.stdin.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[subprocess.Popen]:
    with serve(tmp_path_factory.mktemp("server")) as process:
        yield process


def call(server: subprocess.Popen | None, folder: Path, *words: str) -> subprocess.Popen:
    """Start the caller of a step in ``folder``."""
    address = server.args[-1] if server else folder / "socket"
    command = [sys.executable, "-I", "-S", SCRIPT, "call", address, *words]
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, encoding="utf-8")


def start_endless_step(server: subprocess.Popen, folder: Path) -> tuple[subprocess.Popen, psutil.Process]:
    """Start a step that waits for its shard forever, and return the processes of its caller and of the step."""
    os.mkfifo(folder / "shard.parquet")
    caller = call(server, folder, "nuclei", "shard.parquet", "-o", "results")
    while True:
        forks = psutil.Process(server.pid).children(recursive=True)
        if steps := [fork for fork in forks if fork.ppid() != server.pid]:
            return caller, steps[0]
        assert caller.poll() is None


def has_ended(step: psutil.Process) -> bool:
    return bool(psutil.wait_procs([step], timeout=60)[0])


@pytest.mark.parametrize("is_served", [True, False])
def test_a_mistake_of_the_user_is_reported_to_the_caller(is_served, server, tmp_path):
    caller = call(server if is_served else None, tmp_path, "image", "missing.tif", "--slide-id", "s", "-o", "results")
    _, errors = caller.communicate()
    assert (caller.returncode, errors) == (2, "muse image: missing.tif: no such file; check the path\n")
    assert (tmp_path / "results/ledger/inspect.json").is_file()


def test_an_unknown_verb_is_reported_to_the_caller(server, tmp_path):
    caller = call(server, tmp_path, "no-verb")
    assert "there is no 'no-verb'" in caller.communicate()[1]
    assert caller.returncode == 2


def test_the_process_has_no_thread_that_a_fork_would_miss(server):
    threads = Path(f"/proc/{server.pid}/task").glob("*/comm")
    names = sorted(thread.read_text().strip() for thread in threads if thread.parent.name != str(server.pid))
    assert names in ([], ["jemalloc_bg_thd"])


def test_all_of_its_modules_exist():
    for name in runpy.run_path(str(SCRIPT))["MODULES"]:  # the process itself skips a module that is missing
        assert find_spec(name), name


def test_a_killed_step_is_a_failure_of_its_caller(server, tmp_path):
    caller, step = start_endless_step(server, tmp_path)
    step.kill()
    caller.communicate()
    assert caller.returncode == 128 + signal.SIGKILL


def test_a_step_ends_with_its_caller(server, tmp_path):
    caller, step = start_endless_step(server, tmp_path)
    caller.kill()
    caller.communicate()
    assert has_ended(step)
    assert server.poll() is None


def test_a_step_ends_with_the_workflow(tmp_path):
    with serve(tmp_path) as server:
        caller, step = start_endless_step(server, tmp_path)
        server.stdin.close()
        caller.communicate()
    assert caller.returncode != 0
    assert has_ended(step)
