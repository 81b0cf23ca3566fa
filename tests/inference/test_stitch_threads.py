"""From windows to finished files on several threads: pieces run side by side, and all files have
the same bytes.
"""

import multiprocessing
from itertools import count
from pathlib import Path
from shutil import copytree
from threading import Barrier

import pytest

from muse_pipeline.cohort.layout import SlideFiles
from muse_pipeline.inference import stitch
from muse_pipeline.nuclei.parquet import read_provenance
from muse_pipeline.outputs.base import FinishedSlide
from muse_pipeline.pipeline import make_nuclei
from muse_pipeline.qupath import write
from muse_pipeline.report import slide_summary
from muse_pipeline.settings import RunSettings
from muse_pipeline.slides import isolation


@pytest.fixture(scope="module", autouse=True)
def small_batches():
    """Divide even the few nuclei of a small slide into several batches of GeoJSON, which are
    compressed separately.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "BATCH", 128)
        yield


@pytest.fixture
def small_parts(monkeypatch):
    """Divide even the few nuclei of a small slide into many parts, only a few of which are
    processed at a time.
    """
    monkeypatch.setattr(stitch, "AT_ONCE", 128)


def run_from_windows(tiled_slide, folder: Path, n_shards: int, threads: int) -> dict[str, bytes]:
    """Detect, stitch and write the outputs of a slide; returns every file that is not a ledger by
    its path.
    """
    copytree(tiled_slide.folder, folder)
    shards = tiled_slide.detect(folder / "shards", n_shards, threads)
    settings = RunSettings(
        {"features": "all", "viewer": False, "cells": {"expand_um": 5}, "csv": True}, threads
    )
    make_nuclei(shards, FinishedSlide(SlideFiles(folder), settings, threads=threads))
    before = {path.relative_to(tiled_slide.folder) for path in tiled_slide.folder.rglob("*")}
    written = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    names = sorted(
        name for name in written if name not in before and name.parts[0] not in {"ledger", "shards"}
    )
    return {str(name): written[name].read_bytes() for name in names}


@pytest.fixture(scope="module")
def expected(tiled_slide, tmp_path_factory) -> dict[str, bytes]:
    """The files of one shard on one thread, in parts of the usual size."""
    return run_from_windows(tiled_slide, tmp_path_factory.mktemp("one") / "slide", 1, 1)


@pytest.mark.parametrize("n_shards, threads", [(3, 2), (16, 4), (1, 8)])
def test_any_number_of_shards_and_threads_gives_the_same_bytes(
    tiled_slide, expected, small_parts, tmp_path, n_shards, threads
):
    assert expected.keys() >= {
        "nuclei.parquet",
        "nuclei.geojson.gz",
        "cells.geojson.gz",
        "overlays/1.png",
    }
    assert run_from_windows(tiled_slide, tmp_path / "slide", n_shards, threads) == expected


@pytest.mark.slow
def test_processes_give_the_same_bytes_as_threads(
    tiled_slide, expected, small_parts, tmp_path, monkeypatch
):
    monkeypatch.setattr(isolation, "MANY_WINDOWS", 1)
    assert (
        run_from_windows(tiled_slide, tmp_path / "slide", 1, isolation.MOST_THREADS + 1) == expected
    )
    assert len(multiprocessing.active_children()) > isolation.MOST_THREADS


@pytest.mark.parametrize(
    "module, name",
    [
        (stitch, "rings_to_polygons"),
        (write.FeatureRenderer, "render"),
        (slide_summary, "draw_field"),
    ],
)
def test_pieces_run_side_by_side(
    tiled_slide, whole, small_parts, tmp_path, monkeypatch, module, name
):
    """The first two calls of each function wait for each other, which would never end on one
    thread.
    """
    meet, calls, function = Barrier(2, timeout=60), count(), getattr(module, name)

    def call(*arguments, **named):
        if next(calls) < 2:
            meet.wait()
        return function(*arguments, **named)

    copytree(tiled_slide.folder, tmp_path / "slide")
    monkeypatch.setattr(module, name, call)
    assert read_provenance(whole).n_nuclei > 500
    settings = RunSettings({"viewer": False, "quality": False}, 2)
    make_nuclei(
        [whole.with_name("1-of-1.parquet")],
        FinishedSlide(SlideFiles(tmp_path / "slide"), settings, threads=2),
    )
    assert next(calls) > 2
