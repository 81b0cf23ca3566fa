"""Fixtures for all tests: the real data next to the checkout, and synthetic slides made on the
spot.
"""

from __future__ import annotations

import math
import os
import pickle
import re
import shutil
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browsers import launched_chromium
from filelock import FileLock
from slide_files import draw_gradient, write_pyramid

# Tests run in two processes, and threads that wait for each other on busy cores would make both
# many times slower. torch reads this variable when it is imported, and processes that tests start
# inherit it.
os.environ["OMP_NUM_THREADS"] = "1"

from inference_slides import TiledSlide, open_tiled, take_half_to_store, take_to_store
from muse_page import build_page

from muse_pipeline.cli.main import main
from muse_pipeline.demo.field import PERIOD_UM, plan_layout
from muse_pipeline.demo.tissue import Tissue, plan_tissue, without_ipp


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--kills`` and ``--seed`` of tests/faults/test_kills.py and ``--pictures`` of
    tests/test_screenshots.py.
    """
    parser.addoption(
        "--kills", type=int, default=8, help="how often runs are killed at random moments"
    )
    parser.addoption("--seed", type=int, default=0, help="of those moments")
    parser.addoption("--pictures", help="folder to which the pictures of the docs are written")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files whose tests may take longest, because at the end they would leave a
    process idle.

    The others are sorted by their reversed names. This separates files of one folder, which share
    what `once` makes: if two processes need it at the same time, one has to wait.
    """
    longest = defaultdict(float)
    for item in items:
        for mark in item.iter_markers("timeout"):
            longest[item.path] = max(longest[item.path], mark.args[0] or math.inf)
    items.sort(key=lambda item: (-longest[item.path], item.nodeid.partition("::")[0][::-1]))


def find_shared(name: str) -> Path:
    """Return the folder ``name`` in $MUSE_SHARED, by default in ../shared; skip the test if there
    is none.
    """
    shared = Path(os.environ.get("MUSE_SHARED", Path(__file__).parents[2] / "shared"))
    if not (shared / name).is_dir():
        pytest.skip(f"no folder {shared / name}: set MUSE_SHARED to the folder that holds {name}/")
    return shared / name


@pytest.fixture(scope="module")
def chromium():
    """A browser without a window."""
    with launched_chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real slides and labels: ``data`` in $MUSE_SHARED, by default in ../shared."""
    return find_shared("data")


@pytest.fixture(scope="session")
def qupath_reference() -> Path:
    """The folder with records of how QuPath 0.4 to 0.7 read and export files: by default
    ../shared/reference/qupath.
    """
    return find_shared("reference/qupath")


@pytest.fixture(scope="session")
def trials() -> Path:
    """The folder of small inputs with known results: by default ../shared/reference/trials4."""
    return find_shared("reference/trials4")


@pytest.fixture(scope="session")
def trials5() -> Path:
    """The same of a later round: by default ../shared/reference/trials5."""
    return find_shared("reference/trials5")


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    """``once("drawn", fill)``: the folder "drawn", which one test process fills for all.

    Only change copies of it.
    """
    top = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        top = top.parent  # the folder that all processes share

    def find(name: str, fill: Callable[[Path], object]) -> Path:
        folder, filled = top / f"once-{name}", top / f"once-{name}.filled"
        with FileLock(f"{folder}.lock"):
            if not filled.is_file():
                shutil.rmtree(
                    folder, ignore_errors=True
                )  # left over from a process that failed to fill it
                folder.mkdir()
                fill(folder)
                filled.touch()
        return folder

    return find


@pytest.fixture(scope="session")
def html(once) -> Path:
    """The page ``muse.html``, built by one test process."""
    return once("page", lambda folder: shutil.copy(build_page(), folder)) / "muse.html"


@pytest.fixture(scope="session")
def planned(once) -> Callable[[float, int], Tissue]:
    """A fast replacement for ``plan_tissue``: it reads a saved result with seed 0, and only
    computes the layout.
    """
    path = (
        once(
            "plan",
            lambda folder: (folder / "tissue").write_bytes(pickle.dumps(plan_tissue(1, seed=0))),
        )
        / "tissue"
    )

    def plan(area_mm2: float, seed: int) -> Tissue:
        with without_ipp():
            layout = plan_layout(area_mm2, PERIOD_UM, np.random.default_rng(seed).spawn(5)[0])
        return replace(pickle.loads(path.read_bytes()), layout=layout)

    return plan


@pytest.fixture(scope="session")
def tiled_slide(once, planned) -> TiledSlide:
    """A small slide drawn at 0.25 um/px, processed up to `tile`; tests share it and must not write
    to its folder.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("muse_pipeline.demo.write.plan_tissue", planned)
        return open_tiled(once("tiled", lambda folder: take_to_store(folder, 0.25)))


@pytest.fixture(scope="session")
def coarse_slide(once, tiled_slide) -> Path:
    """The folder of the same slide at 0.5 um/px, processed up to `tile`; tests must not write to
    it.
    """
    return once("coarse", lambda folder: take_half_to_store(tiled_slide.folder, folder))


@pytest.fixture(scope="module")
def no_curves():
    """Plot no loss curves, because that takes longer than a short run; tests/export and
    tests/contracts plot them.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("muse_pipeline.training.loop.draw_curves", lambda rows, output: None)
        yield


@pytest.fixture(scope="session")
def region_model(once) -> Path:
    """A region model fitted to synthetic textures for a few seconds, as ONNX next to its
    checkpoint.
    """
    from region_slides import export_drawn_model

    return once("region_model", export_drawn_model) / "model.onnx"


class CommandLine:
    """``muse("sheet a.tif -o b", ...)``: run the command line in this process.

    The first argument is split into words, the others are words.
    """

    def __init__(self, capsys: pytest.CaptureFixture):
        self.capsys = capsys

    def __call__(self, command: str, *words: object) -> tuple[int, str, str]:
        """The exit status, stdout and stderr."""
        self.capsys.readouterr()
        status = main([*command.split(), *map(str, words)])
        return status, *self.capsys.readouterr()

    def ok(self, command: str, *words: object) -> str:
        """The stdout of a command that succeeds."""
        status, output, errors = self(command, *words)
        assert status == 0, errors
        return output

    def fails(self, command: str, *words: object) -> str:
        """The stderr of a command that fails, which ends in its only sentence for the user."""
        status, _, errors = self(command, *words)
        lines = errors.splitlines()
        assert status == 2, errors
        assert [line for line in lines if re.match("muse[^:]*: ", line)] == lines[-1:]
        return errors


@pytest.fixture
def muse(capsys):
    return CommandLine(capsys)


@pytest.fixture(scope="session")
def gradient() -> np.ndarray:
    """(803, 1001, 3) uint8: red grows with x and green with y, so that a pixel's colour shows its
    position.
    """
    return draw_gradient(1001, 803)


@pytest.fixture(scope="session")
def pyramid_path(tmp_path_factory, gradient) -> Path:
    """The gradient as a pyramidal, tiled TIFF at 0.5 um/px with downsamples 1, 2 and 4; OpenSlide
    opens it.
    """
    path = tmp_path_factory.mktemp("slides") / "pyramid.tif"
    write_pyramid(path, gradient)
    return path


@pytest.fixture(scope="session")
def ome_path(tmp_path_factory, gradient) -> Path:
    """The gradient as an OME-TIFF at 0.5 um/px with its levels in sub-directories; tiffslide opens
    it.
    """
    path = tmp_path_factory.mktemp("slides") / "pyramid.ome.tif"
    write_pyramid(path, gradient, ome=True)
    return path
