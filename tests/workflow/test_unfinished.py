"""Only unfinished slides are planned, whatever Snakemake remembers, and after any change of a file
of a slide.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
from workflow_runs import (
    draw_stained_slide,
    kill_when,
    planned_jobs,
    run_snakemake,
    write_config,
    write_sheet,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

REPORT = {"report": 1, "all": 1}


def rows_of(folder: Path, **cells: dict) -> list[dict]:
    """The rows of slides a, b and c, with different cells for the slides in ``cells``."""
    empty = {"mpp": "", "shards": ""}
    return [
        {"slide_id": name, "path": folder / f"{name}.tif", **empty, **cells.get(name, {})}
        for name in "abc"
    ]


def plan(folder: Path, *arguments: str) -> tuple[dict[str, int], set[str]]:
    """(rule -> number of jobs that a run would execute, slides with jobs in the graph, even if
    these would not run).
    """
    run = run_snakemake(folder, "--dry-run", "--debug-dag", *arguments)
    assert run.returncode == 0, run.stdout
    return planned_jobs(run.stdout), {name for name in "abcd" if f"slide={name}" in run.stdout}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a cohort that has run without keeping images and shards."""
    folder = tmp_path_factory.mktemp("unfinished")
    for name in "abc":
        draw_stained_slide(folder / f"{name}.tif", size_px=500, n_nuclei=60)
    write_sheet(folder / "slides.tsv", rows_of(folder))
    write_config(folder, keep_stores=False, features="all", proposals={"method": "haematoxylin"})
    run = run_snakemake(folder)
    assert run.returncode == 0, run.stdout
    return folder


def test_five_times_the_right_plan(finished, tmp_path):
    assert plan(finished) == ({}, set())
    folder = shutil.copytree(
        finished, tmp_path / "moved"
    )  # without Snakemake's metadata, as in the next plan
    shutil.rmtree(folder / ".snakemake")
    write_sheet(folder / "slides.tsv", rows_of(finished, b={"shards": 2}))
    of_proposals = {"propose": 2, "proposals": 1}
    assert plan(folder) == ({"image": 1, "detect": 2, "nuclei": 1, **of_proposals, **REPORT}, {"b"})
    run = run_snakemake(folder)
    assert run.returncode == 0 and plan(folder) == ({}, set()), run.stdout
    write_sheet(folder / "slides.tsv", rows_of(finished, b={"shards": 2}, c={"mpp": 0.5}))
    store = folder / "results/c/image-500nm.zarr"
    ledger = folder / "results/c/ledger/tile-image-500nm.zarr.json"
    kill_when(lambda: store.exists() and ledger.stat().st_size, folder)
    shutil.rmtree(folder / ".snakemake")
    planned, slides = plan(folder)
    unfinished = {"detect", "nuclei", "propose", "report"}
    assert slides == {"c"} and planned.keys() >= unfinished and "image" not in planned
    ledger.write_bytes(b"")  # as if killed before the step's end
    planned, slides = plan(folder)
    assert slides == {"c"} and planned.keys() >= {*unfinished, "image"}
    moved = folder.rename(tmp_path / "moved again")
    run = run_snakemake(moved)
    assert run.returncode == 0 and plan(moved) == ({}, set()), run.stdout


@contextmanager
def removed(path: Path):
    """Within this context, a file does not exist."""
    kept = path.rename(path.with_name("kept"))
    try:
        yield
    finally:
        kept.rename(path)


@contextmanager
def touched(path: Path):
    """Within this context, a file is newer than all results."""
    before = path.stat()
    os.utime(path)
    yield
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "name, change",
    [
        ("a.tif", touched),
        ("results/a/nuclei.parquet", removed),
        ("results/a/tissue.npz", removed),
        ("results/a/tissue.npz", touched),
        ("results/a/proposals.parquet", removed),
    ],
)
def test_after_a_change_of_a_file_its_slide_is_planned_alone(finished, name, change):
    with change(finished / name):
        planned, slides = plan(finished)
    assert planned and slides == {"a"}
    assert plan(finished) == ({}, set())


def test_a_report_that_is_lost_is_written_again_without_the_slides(finished):
    with removed(finished / "results/report.html"):
        assert plan(finished) == (REPORT, set())


def test_options_of_snakemake_plan_unfinished_slides_alone(finished):
    for options in (["-R", "nuclei"], ["--until", "nuclei"]):
        assert plan(finished, *options) == ({}, set())
    assert plan(finished, "--forceall") == (REPORT, set())
    with removed(finished / "results/a/nuclei.parquet"):
        assert plan(finished)[1] == {"a"}
        assert plan(finished, "--until", "detect")[0] == {"image": 1, "detect": 1}
        assert plan(finished, "--batch", "report=1/2", "--", "report")[1] <= {"a"}
        graph = run_snakemake(finished, "--dag").stdout
        assert graph.count("slide: a") == 1 and "slide: b" not in graph
    run = run_snakemake(finished, "--report", "of_snakemake.html")
    assert run.returncode == 0 and (finished / "of_snakemake.html").is_file(), run.stdout


def test_a_run_that_is_stopped_at_once_and_not_repeated_costs_nothing(finished):
    """The message about replaced results says that the run may be stopped."""
    run = run_snakemake(
        finished, "--config", "max_corrupt=0.5", "--", "results/a/nothing"
    )  # writes the requests
    assert run.returncode != 0
    assert plan(finished, "--config", "max_corrupt=0.5")[1] == {"a", "b", "c"}
    assert plan(finished) == ({}, set())


def test_a_new_row_is_planned_alone_and_a_failed_slide_is_planned_again(finished):
    rows = [
        *rows_of(finished),
        {**rows_of(finished)[0], "slide_id": "d", "path": finished / "d.tif"},
    ]
    (finished / "d.tif").write_bytes(b"no slide")
    write_sheet(finished / "slides.tsv", rows)
    assert plan(finished)[1] == {"d"}
    assert run_snakemake(finished).returncode == 1
    assert plan(finished)[1] == {"d"}
    draw_stained_slide(finished / "d.tif", size_px=500, n_nuclei=60)
    assert run_snakemake(finished).returncode == 0
    assert plan(finished) == ({}, set())
