"""A reader that really hangs: it opens a pipe that no process opens for writing."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest
from workflow_runs import draw_stained_slide

from muse_pipeline.cli.main import main
from muse_pipeline.core.errors import HangingReadError
from muse_pipeline.core.files import read_json, write_json
from muse_pipeline.slides import isolation
from muse_pipeline.slides.base import READERS, open_slide
from muse_pipeline.slides.isolation import call_in_time, map_in_time
from muse_pipeline.slides.openslide import OpenSlideReader


def hang(pipe: Path) -> bytes:
    """Block until ``release`` is called for the pipe."""
    with pipe.open("rb") as file:
        return file.read()


def release(pipe: Path) -> None:
    """Unblock all readers of the pipe."""
    while True:
        try:
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:  # no reader remains
            return
        time.sleep(0.01)


@pytest.fixture
def pipe(tmp_path) -> Iterator[Path]:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    yield path
    release(path)


@pytest.fixture
def hasty(monkeypatch) -> None:
    monkeypatch.setattr(isolation, "LIMIT_S", 1.0)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """A folder with S.tif, slide.json, tissue.npz, and hanging.json, which names the reader
    "hangs".
    """
    folder = tmp_path_factory.mktemp("drawn")
    draw_stained_slide(folder / "S.tif", size_px=1600, n_nuclei=50)
    assert main(f"step inspect {folder}/S.tif --output {folder}/slide.json".split()) == 0
    assert main(tissue(folder / "S.tif").split()) == 0
    write_json(folder / "hanging.json", read_json(folder / "slide.json") | {"reader": "hangs"})
    return folder


@pytest.fixture
def slide(drawn, tmp_path, pipe, monkeypatch) -> Path:
    """The slide in a copy of the folder ``drawn``; the reader "hangs" blocks in the right third of
    the slide.
    """

    class Hangs(OpenSlideReader):
        def read_level(self, xy_px, level, size):
            if xy_px[0] + size[0] > 2 / 3 * self.properties.level_sizes_px[level][0]:
                hang(pipe)
            return super().read_level(xy_px, level, size)

    monkeypatch.setitem(READERS._entries, "hangs", Hangs)
    shutil.copytree(drawn, tmp_path, dirs_exist_ok=True)
    return tmp_path / "S.tif"


def tissue(slide: Path, info: str = "slide.json", made: str = "") -> str:
    out = f"{slide.parent}/{made}"
    return (
        f"step tissue {slide} --info {slide.parent}/{info} --ledger {slide.parent}/ledger.json"
        f" --mask {out}tissue.npz --picture {out}tissue.png --outline {out}tissue.geojson"
        f" --colour {out}colour.json"
    )


def tile(slide: Path, info: str, made: str) -> str:
    folder = slide.parent
    return (
        f"step tile {slide} --info {folder}/{info} --tissue {folder}/tissue.npz --threads 2"
        f" --max-corrupt 1 --ledger {folder}/ledger.json --output {folder}/{made}image-500nm.zarr"
    )


@pytest.mark.parametrize("step", [tissue, tile])
def test_a_step_whose_reader_hangs_ends_in_one_sentence_and_the_next_one_runs(
    muse, slide, step, monkeypatch
):
    before = set(slide.parent.rglob("*"))
    with monkeypatch.context() as hasty:
        hasty.setattr(isolation, "LIMIT_S", 1.0)
        status, _, printed = muse(step(slide, "hanging.json", "new-"))
    assert (status, printed.count("\n")) == (2, 1)
    assert re.match(
        rf"muse (step )?{step.__name__}: {slide}: reading \d+ x \d+ px at \(\d+, \d+\)"
        r" of level \d has not"
        r" ended ",
        printed,
    )
    assert "after 1 s" in printed and "run the same command again" in printed
    assert set(slide.parent.rglob("*")) == before
    ledger = read_json(slide.parent / "ledger.json")
    assert ledger["status"] == "failed" and "has not ended" in ledger["reason"]
    assert muse(step(slide, "slide.json", "new-"))[0] == 0


def test_once_a_read_hangs_no_other_is_begun_and_the_file_stays_open(slide, hasty):
    with open_slide(slide, "hangs") as opened:
        with pytest.raises(HangingReadError, match="has not ended"):
            opened.read_region((1400, 0), 0, (10, 10))
        with pytest.raises(HangingReadError, match="is no longer read"):
            opened.read_region((0, 0), 0, (10, 10))
    assert opened._handle is not None


def test_opening_may_hang_too(slide, pipe, hasty, monkeypatch):
    class Hangs(OpenSlideReader):
        def __init__(self, path):
            hang(pipe)

    monkeypatch.setitem(READERS._entries, "hangs", Hangs)
    with pytest.raises(HangingReadError, match=rf"{slide}: opening it has not ended after 1 s"):
        open_slide(slide, "hangs")


def test_the_errors_of_a_call_are_its_own():
    def fail():
        raise TimeoutError("of the network")

    with pytest.raises(TimeoutError, match="of the network") as caught:
        call_in_time("S", fail)
    assert not isinstance(caught.value, HangingReadError)
    assert call_in_time("S", divmod, 7, 2) == (3, 1)


def test_a_map_gives_results_in_order_until_a_call_fails():
    def read(seconds: float) -> float:
        return call_in_time("S", lambda: 1 / seconds)

    results = map_in_time(read, [4, 2, 1, 0, 8], threads=2)
    assert [next(results) for _ in range(3)] == [0.25, 0.5, 1.0]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_a_map_that_is_closed_waits_for_the_calls_that_have_begun():
    begun, ended = [], []

    def read(number: int) -> None:
        begun.append(number)
        if number:
            second.set()
            closing.wait()
            sum(range(1_000_000))
        ended.append(number)

    second, closing = Event(), Event()
    results = map_in_time(read, range(100), threads=2)
    next(results)
    second.wait()
    closing.set()
    results.close()
    assert set(begun) == set(ended) and len(begun) < 100


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_program_ends_although_a_read_hangs(pipe):
    program = """
        import sys
        from muse_pipeline.slides import isolation
        isolation.LIMIT_S = 0.1
        try:
            isolation.call_in_time("S", open, sys.argv[1])
        except isolation.HangingReadError as error:
            sys.exit(f"{error}"[:21])
    """
    process = start(program, pipe)
    assert (process.communicate(timeout=60)[0], process.returncode) == (
        "S has not ended after\n",
        1,
    )


def test_time_in_which_a_process_is_suspended_does_not_count(pipe):
    program = """
        import sys
        from muse_pipeline.slides import isolation
        isolation.LIMIT_S = 2
        print(isolation.call_in_time("S", lambda: open(sys.argv[1]).read()))
    """
    process = start(program, pipe)
    with pipe.open("w") as file:  # blocks until the call has started
        process.send_signal(signal.SIGSTOP)
        time.sleep(2.2)
        process.send_signal(signal.SIGCONT)
        file.write("alive")
    assert process.communicate(timeout=60)[0] == "alive\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no forks")
def test_a_fork_has_threads_of_its_own():
    program = """
        import os
        from muse_pipeline.slides.isolation import call_in_time
        call_in_time("S", int, "1")
        child = os.fork()
        os.write(1, b"%d\\n" % call_in_time("S", int, "2"))  # at once: two prints may mix
        if child:
            os.waitpid(child, 0)
    """
    assert start(program).communicate(timeout=60)[0] == "2\n2\n"
