"""Fallbacks for what macOS and Windows lack, tested on Linux by hiding one module or folder at a
time.
"""

import os
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from workflow_runs import draw_stained_slide, write_sheet

from muse_pipeline.cohort.lock import find_other_run, lock_results
from muse_pipeline.cohort.sheet import read_sheet
from muse_pipeline.core import environment
from muse_pipeline.core.environment import limit_memory, link_folder, peak_memory_mib, read_at
from muse_pipeline.core.errors import OutputError
from muse_pipeline.slides import isolation
from muse_pipeline.slides.inspect import inspect_slide
from muse_pipeline.slides.isolation import call_isolated

NAMES = "nuclei.parquet", "nuclei.geojson.gz", "summary.json"
# Python without the module and functions that Windows lacks, and without /proc, so that every
# process is spawned.
AS_ON_WINDOWS = """
import os, pathlib, sys
import psutil  # which reads `resource` on Linux alone
sys.modules["resource"] = None
del os.pread, os.pwrite, pathlib.Path.is_mount
from muse_pipeline.core import environment
nowhere = pathlib.Path("/nowhere/there")
environment.Path = lambda name: nowhere if str(name).startswith("/proc") else pathlib.Path(name)
from muse_pipeline.cli.main import main
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def without_proc(monkeypatch):
    """Hide the files of /proc, which macOS and Windows lack."""
    monkeypatch.setattr(
        environment, "Path", lambda name: Path("/nowhere/there" if "proc" in name else name)
    )


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_the_peak_memory_is_stated_everywhere(without_proc, monkeypatch, platform):
    resource = None
    if platform != "win32":
        unit = 1 << 20 if platform == "darwin" else 1 << 10  # bytes on macOS, KiB elsewhere
        usage = types.SimpleNamespace(ru_maxrss=300 * unit)
        resource = types.SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: usage)
    monkeypatch.setitem(sys.modules, "resource", resource)
    monkeypatch.setattr(sys, "platform", platform)
    assert peak_memory_mib() == 300 if resource else peak_memory_mib() > 20
    environment.forget_peak_memory()
    limit_memory(1)  # without effect: a real limit of 1 byte would kill the process
    assert environment.choose_start_method() == "spawn"


@pytest.mark.parametrize("asked, expected", [("spawn", "spawn"), ("", "fork")])
def test_no_process_is_forked_where_the_environment_asks_so(asked, expected):
    """Tested in a new process, because a process with several threads is never forked."""
    program = (
        "from muse_pipeline.core.environment import choose_start_method;"
        " print(choose_start_method())"
    )
    environ = {**os.environ, "MUSE_START_METHOD": asked}
    run = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == (expected if Path("/proc/self/task").is_dir() else "spawn")


def test_what_is_not_limited_is_named(without_proc):
    (found,) = (each for each in environment.examine_environment() if each.topic == "memory limit")
    assert not found.usable and "none on this system for damaged slides" in found.found


def test_a_spawned_process_reads_slides(tmp_path, monkeypatch):
    monkeypatch.setattr(isolation, "choose_start_method", lambda: "spawn")
    monkeypatch.setattr(isolation, "_idle_workers", [])
    draw_stained_slide(tmp_path / "a.tif", size_px=300, n_nuclei=5)
    assert call_isolated(inspect_slide, tmp_path / "a.tif", "a", None).size_px == (300, 300)
    isolation._idle_workers.pop().stop()


def test_a_lock_of_windows_keeps_other_runs_out(tmp_path, monkeypatch):
    held = set()

    def lock(number, mode, n_bytes):
        byte = os.fstat(number).st_ino, os.lseek(number, 0, os.SEEK_CUR)
        if byte in held:
            raise PermissionError(13, "Permission denied")
        held.add(byte)

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", types.SimpleNamespace(LK_NBLCK=2, locking=lock))
    with lock_results(tmp_path, "snakemake"):
        assert held == {((tmp_path / ".lock").stat().st_ino, 1 << 30)}
        assert "snakemake (process " in find_other_run(tmp_path)
        with (
            pytest.raises(OutputError, match="is writing results there"),
            lock_results(tmp_path, "muse run"),
        ):
            pass


def test_a_folder_is_copied_where_no_link_can_be_made(tmp_path, monkeypatch):
    (tmp_path / "store/0").mkdir(parents=True)
    (tmp_path / "store/0/chunk").write_bytes(b"pixels")
    link_folder(tmp_path / "link", "store", tmp_path / "store")
    assert (tmp_path / "link").is_symlink()

    def reject(*_, **__):
        raise OSError(1314, "A required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", reject)
    link_folder(tmp_path / "hard", "store", tmp_path / "store")
    assert (tmp_path / "hard/0/chunk").samefile(tmp_path / "store/0/chunk")
    monkeypatch.setattr(os, "link", reject)
    link_folder(tmp_path / "copy", "store", tmp_path / "store")
    assert (tmp_path / "copy/0/chunk").read_bytes() == b"pixels"
    assert not (tmp_path / "copy/0/chunk").samefile(tmp_path / "store/0/chunk")


@pytest.mark.parametrize("lacking", [(), ("pread",)])
def test_threads_read_parts_of_one_file(tmp_path, monkeypatch, lacking):
    for name in lacking:
        monkeypatch.delattr(os, name, raising=False)
    parts = [(bytes([number]) * 500, 500 * number) for number in range(200)]
    (tmp_path / "parts").write_bytes(b"".join(content for content, _ in parts))
    with (tmp_path / "parts").open("rb", buffering=0) as file, ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda part: read_at(file.fileno(), 500, part[1]), parts)) == [
            part[0] for part in parts
        ]
        assert read_at(file.fileno(), 500, 99_900) == parts[-1][0][:100]


def test_a_sheet_of_windows_is_read(tmp_path):
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides/a.tif").touch()
    text = "slide_id\tpath\r\nA\tslides\\a.tif\r\n"
    (tmp_path / "slides.tsv").write_bytes(text.encode())
    (row,) = read_sheet(tmp_path / "slides.tsv")
    assert row.path == str(tmp_path / "slides/a.tif")
    (tmp_path / "a\\b.tif").touch()  # Linux allows a backslash in a file name
    write_sheet(tmp_path / "slides.tsv", [{"slide_id": "A", "path": "a\\b.tif"}])
    assert read_sheet(tmp_path / "slides.tsv")[0].path == str(tmp_path / "a\\b.tif")


@pytest.mark.slow
def test_a_run_without_what_windows_lacks_has_the_same_bytes(tmp_path):
    draw_stained_slide(tmp_path / "Größe µ.tif", size_px=500, n_nuclei=60)
    (tmp_path / "windows.py").write_text(AS_ON_WINDOWS, encoding="utf-8")
    words = (
        "run",
        "Größe µ.tif",
        "--model",
        "compact-fp32",
        "-o",
    )  # `compact` can mean int8 on Linux
    environ = {**os.environ, "PYTHONIOENCODING": "ascii"}
    for program, output in (["-m", "muse_pipeline.cli.main"], "linux"), (["windows.py"], "windows"):
        command = [sys.executable, *program, *words, output]
        run = subprocess.run(
            command, cwd=tmp_path, env=environ, capture_output=True, encoding="utf-8", check=False
        )
        assert run.returncode == 0 and "Größe µ: " in run.stdout, run.stdout + run.stderr
    for name in NAMES:
        assert (tmp_path / "windows/Größe µ" / name).read_bytes() == (
            tmp_path / "linux/Größe µ" / name
        ).read_bytes()
