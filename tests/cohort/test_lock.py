"""Only one run at a time per results folder.

Processes are used, because a process may lock its folder again.
"""

import os
import signal
import subprocess
import sys

import pytest

from muse_pipeline.cohort.lock import find_other_run, lock_results
from muse_pipeline.core.errors import OutputError

HOLD = """
import sys, time
from pathlib import Path
from muse_pipeline.cohort.lock import lock_results
with lock_results(Path(sys.argv[1]), "snakemake"):
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """A process that holds the lock of the results folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_run_is_rejected_until_the_first_is_killed(tmp_path, other):
    named = (
        rf"^{tmp_path}: snakemake \(process {other.pid} on .*, since 20.*\) is writing results"
        r" there; wait until"
    )
    for _ in range(2):  # a rejected attempt leaves the lock in place
        with pytest.raises(OutputError, match=named), lock_results(tmp_path, "muse run"):
            pass
    assert find_other_run(tmp_path).startswith(f"{tmp_path}: snakemake (process {other.pid} ")
    with lock_results(tmp_path / "another", "snakemake"):
        pass
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert find_other_run(tmp_path) is None
    with lock_results(tmp_path, "muse run"):
        assert f"muse run (process {os.getpid()} on " in (tmp_path / ".lock").read_text()


def test_without_a_run_nothing_is_locked_or_made(tmp_path):
    assert find_other_run(tmp_path / "results") is None
    assert not (tmp_path / "results").exists()
    (tmp_path / "results").touch()
    with (
        pytest.raises(OutputError, match=r"results/\.lock: cannot be written"),
        lock_results(tmp_path / "results", "x"),
    ):
        pass
