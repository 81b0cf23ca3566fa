"""The ledger records how a step ended; the entry of a killed step is empty."""

import mmap
import subprocess
import sys
import threading
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import pytest

from muse_pipeline.cohort.ledgers import read_progress, record_step
from muse_pipeline.core.errors import LeftOutWarning, MppError
from muse_pipeline.core.files import read_json


def test_an_interrupted_step_has_not_failed(tmp_path):
    with pytest.raises(KeyboardInterrupt), record_step(tmp_path / "l.json", "tissue"):
        raise KeyboardInterrupt
    entry = read_json(tmp_path / "l.json")
    assert (entry["status"], entry["reason"]) == ("interrupted", "was interrupted; run it again")


def test_a_step_that_ends_well(tmp_path):
    with record_step(tmp_path / "ledger/tile.json", "tile"):
        pass
    entry = read_json(tmp_path / "ledger/tile.json")
    assert (entry["step"], entry["status"], entry["reason"]) == ("tile", "ok", "")
    assert entry["seconds"] >= 0
    assert entry["peak_memory_mib"] > 0


@pytest.mark.parametrize(
    "error, reason",
    [
        (MppError("no mpp;\n give it"), "no mpp; give it"),
        (KeyError("x"), "unexpected KeyError: 'x'"),
    ],
)
def test_a_step_that_fails(tmp_path, error, reason):
    with pytest.raises(type(error)), record_step(tmp_path / "tile.json", "tile"):
        raise error
    entry = read_json(tmp_path / "tile.json")
    assert (entry["status"], entry["reason"]) == ("failed", reason)


def test_a_step_under_way_has_an_empty_entry(tmp_path):
    """An empty entry distinguishes a killed step from steps that were not run or ended in an
    earlier run.
    """
    path = tmp_path / "ledger/tile.json"
    path.parent.mkdir()
    path.write_text("{}")
    with record_step(path, "tile"):
        assert path.read_text() == ""
        (tile,) = (record for record in read_progress(tmp_path) if record.step == "tile")
        assert (tile.status, tile.reason) == (
            "failed",
            "was killed (out of memory or time?); see its log and run again",
        )


def test_what_is_left_out_is_printed_and_noted_once(tmp_path, capsys):
    with record_step(tmp_path / "tissue.json", "tissue") as noted:
        noted.append("first")
        for _ in range(2):
            warnings.warn("2 lines left out", LeftOutWarning, stacklevel=1)
    assert read_json(tmp_path / "tissue.json")["warnings"] == ["first", "2 lines left out"]
    assert capsys.readouterr().err == "muse tissue: 2 lines left out\n"


def test_a_step_without_a_ledger(tmp_path):
    with record_step(None, "tile"):
        pass
    assert not list(tmp_path.iterdir())


def test_processor_time_is_that_of_the_step_s_threads_and_processes(tmp_path):
    command = [sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"]
    with record_step(tmp_path / "busy.json", "detect"):
        subprocess.run(command, check=True)
        thread = threading.Thread(target=keep_busy, args=(0.3,))
        thread.start()
        thread.join()
    with record_step(tmp_path / "idle.json", "tile"):
        pass
    busy, idle = (
        read_json(tmp_path / name)["processor_seconds"] for name in ("busy.json", "idle.json")
    )
    assert busy >= 0.55 and idle < busy - 0.5


def keep_busy(seconds):
    started = time.thread_time()
    while time.thread_time() - started < seconds:
        pass


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="only Linux lets the peak start anew"
)
def test_the_peak_is_the_step_s_own(tmp_path):
    with record_step(tmp_path / "large.json", "tile"), fresh_memory(200):
        pass
    with record_step(tmp_path / "small.json", "stitch"):
        pass
    large, small = (
        read_json(tmp_path / name)["peak_memory_mib"] for name in ("large.json", "small.json")
    )
    assert large - small > 150


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="only Linux states the peak of one process"
)
def test_the_peak_is_not_that_of_the_process_before():
    code = "from muse_pipeline.core.environment import peak_memory_mib; print(peak_memory_mib())"
    with fresh_memory(400):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
    assert int(done.stdout) < 400


@contextmanager
def fresh_memory(mib):
    """Map new memory from the system, because an array could reuse memory that earlier tests have
    freed.
    """
    with mmap.mmap(-1, mib << 20) as memory:
        for _ in range(mib):
            memory.write(bytes(1 << 20))
        yield
