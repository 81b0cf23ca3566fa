"""`muse run` and the workflow repeat the same jobs on one folder, whichever of the two has written
it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from workflow_runs import (
    draw_stained_slide,
    enlarge,
    planned_jobs,
    run_snakemake,
    write_config,
    write_sheet,
)

from muse_pipeline.cli.main import main

pytestmark = pytest.mark.timeout(600)

JOBS = ["image", "detect", "nuclei"]
SETTINGS = {"csv": True, "viewer": False, "shards": 1, "frame": "openslide"}
SETTINGS |= {"measurements": ["h_mean"], "max_features": 40}


def run_muse(folder: Path, settings: dict) -> int:
    write_config(folder, **settings)
    words = f"run {folder / 'slides.tsv'} -o {folder / 'results'}".split()
    return main([*map(str, [*words, "--config", folder / "config.yaml"])])


def prepare(folder: Path) -> Path:
    """Write the inputs of both runners."""
    draw_stained_slide(folder / "slide.tif", size_px=500, n_nuclei=60)
    enlarge(folder / "slide.tif")
    write_sheet(folder / "slides.tsv", [{"slide_id": "a", "path": folder / "slide.tif"}])
    write_config(folder, **SETTINGS)
    return folder


@pytest.fixture(scope="module")
def of_muse(tmp_path_factory) -> Path:
    """The folder of a slide that `muse run` has finished."""
    folder = prepare(tmp_path_factory.mktemp("muse"))
    assert run_muse(folder, SETTINGS) == 0
    return folder


@pytest.fixture(scope="module")
def of_snakemake(tmp_path_factory) -> Path:
    """The folder of a slide that the workflow has finished."""
    folder = prepare(tmp_path_factory.mktemp("snakemake"))
    run = run_snakemake(folder)
    assert run.returncode == 0, run.stdout
    return folder


def planned_by_snakemake(folder: Path, settings: dict) -> set[str]:
    write_config(folder, **settings)
    run = run_snakemake(folder, "--dry-run")
    assert run.returncode == 0, run.stdout
    return {job for job in planned_jobs(run.stdout) if job in JOBS}


def repeated_by_muse(folder: Path, settings: dict) -> set[str]:
    """The jobs whose first files are newer after `muse run`."""
    slide = folder / "results/a"
    files = (
        slide / "slide.json",
        slide / f"shards/1-of-{settings['shards']}.parquet",
        slide / "nuclei.parquet",
    )
    before = [path.stat().st_mtime_ns if path.exists() else None for path in files]
    assert run_muse(folder, settings) == 0
    return {
        job
        for job, path, time in zip(JOBS, files, before, strict=True)
        if path.stat().st_mtime_ns != time
    }


def keep_time(path: Path, change) -> None:
    """Change a file, and give it its earlier modification time."""
    time_ns = path.stat().st_mtime_ns
    change(path)
    os.utime(path, ns=(time_ns, time_ns))


def write_version(folder: Path) -> None:
    """Let the results state that an older version of the package has made them."""
    for path in (folder / "results/a").rglob("*"):
        if path.is_file() and b'"muse-pipeline"' in path.read_bytes():
            keep_time(
                path, lambda path: path.write_bytes(path.read_bytes().replace(b"0.1.0", b"0.0.9"))
            )
    assert b"0.0.9" in (folder / "results/a/nuclei.parquet").read_bytes()


def copy_slide(folder: Path) -> None:
    """Replace the slide by a copy with a different date."""
    os.utime(folder / "slide.tif", (1, 1))


def leave(folder: Path) -> None:
    """Change no file."""


def remove_summary(folder: Path) -> None:
    (folder / "results/a/summary.json").unlink()


def touch_mask(folder: Path) -> None:
    (folder / "results/a/tissue.npz").touch()


@pytest.mark.parametrize(
    "runner, change, settings, jobs",
    [
        ("muse", leave, {}, set()),
        ("muse", write_version, {}, set()),
        ("muse", copy_slide, {}, {*JOBS}),
        ("muse", leave, {"csv": False}, {"nuclei"}),
        ("snakemake", leave, {}, set()),
        ("snakemake", leave, {"shards": 2}, {"detect", "nuclei"}),
        ("snakemake", remove_summary, {}, {"nuclei"}),
        ("snakemake", touch_mask, {}, {"nuclei"}),
    ],
)
def test_after_a_change_both_repeat_the_same_jobs(
    request, tmp_path, runner, change, settings, jobs
):
    finished = request.getfixturevalue(f"of_{runner}")
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    write_sheet(folder / "slides.tsv", [{"slide_id": "a", "path": finished / "slide.tif"}])
    slide_time = (finished / "slide.tif").stat().st_mtime_ns
    try:
        change(finished if change is copy_slide else folder)
        assert planned_by_snakemake(folder, {**SETTINGS, **settings}) == jobs
        assert repeated_by_muse(folder, {**SETTINGS, **settings}) == jobs
        assert planned_by_snakemake(folder, {**SETTINGS, **settings}) == set()
    finally:
        os.utime(finished / "slide.tif", ns=(slide_time, slide_time))
    assert (folder / "results/a/nuclei.csv.gz").exists() is {**SETTINGS, **settings}["csv"]
