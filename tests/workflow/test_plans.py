"""The files of a plan, which jobs read, do not change while the run is under way."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from workflow_runs import enlarge, planned_jobs, run_snakemake, write_config, write_sheet

from muse_pipeline.cohort.lock import lock_results

pytestmark = pytest.mark.timeout(300)

ROWS = [
    {"slide_id": "a", "path": "a.tif", "split": ""},
    {"slide_id": "b", "path": "b.tif", "split": "test"},
]


@pytest.fixture
def cohort(tmp_path) -> Path:
    """A folder with a sheet that lists files other than slides, so that any job would fail."""
    for row in ROWS:
        (tmp_path / row["path"]).touch()
        enlarge(tmp_path / row["path"])
    write_sheet(tmp_path / "slides.tsv", ROWS)
    return tmp_path


@pytest.fixture
def planned(cohort) -> Path:
    """The folder after a run whose jobs have failed, so that its plan has been written."""
    write_config(cohort)
    assert run_snakemake(cohort, "--until", "image").returncode == 1
    return cohort


def plans_in(folder: Path) -> dict[Path, bytes]:
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in (folder / "results").rglob("*.[jy]*")
    }


@pytest.mark.slow
def test_a_path_may_begin_at_home(cohort, monkeypatch):
    monkeypatch.setenv("HOME", str(cohort))
    run_file = {"run": "~/backbone.yaml"}
    write_config(
        cohort, slides="~/slides.tsv", output="~/of mine", train_data="~/images", pretrain=run_file
    )
    run = run_snakemake(cohort, "--dry-run")
    assert f"{cohort}/backbone.yaml" in run.stdout, run.stdout  # the file does not exist
    assert not (cohort / "~").exists()


@pytest.mark.parametrize("reading", ["--dry-run", "--lint", "--list-rules", "--dag", "--summary"])
def test_reading_writes_nothing(cohort, reading):
    write_config(cohort)
    names = {path.name for path in cohort.iterdir()}
    cohort.chmod(0o500)
    run = run_snakemake(cohort, reading)
    cohort.chmod(0o700)
    assert "rror" not in run.stdout, run.stdout
    assert {path.name for path in cohort.iterdir()} - names <= {".snakemake"}


def test_beside_a_run_under_way_nothing_that_its_jobs_read_is_written(planned):
    with lock_results(planned / "results", "muse run"):
        before = plans_in(planned)
        assert (
            run_snakemake(planned, "--dry-run").returncode == 0
        )  # a dry run with the same settings is allowed
        write_config(planned, mode="label-free")
        for options in ([], ["--dry-run"]):
            run = run_snakemake(planned, *options)
            assert (run.returncode, "Traceback" in run.stdout, planned_jobs(run.stdout)) == (
                1,
                False,
                {},
            ), run.stdout
            assert f"\nresults: muse run (process {os.getpid()} on " in run.stdout
        run = run_snakemake(planned, "--dry-run", "--config", "output=another study")
        assert run.returncode == 0, run.stdout
        assert plans_in(planned) == before


def test_a_dry_run_leaves_what_the_last_run_used_and_plans_with_its_own(planned):
    before = plans_in(planned)
    write_sheet(planned / "slides.tsv", ROWS[:1])
    write_config(planned, model="label_free", max_features=1e5, shards=2.0)
    run = run_snakemake(planned, "--dry-run", "--printshellcmds")
    assert planned_jobs(run.stdout)["detect"] == 2, run.stdout
    assert "label_free" in run.stdout and "--config results/run_config.yaml" in run.stdout
    assert plans_in(planned) == before


@pytest.mark.slow
def test_a_part_of_the_path_is_not_called_the_whole(cohort):
    write_config(cohort)
    for row in ROWS:
        cv2.imwrite(str(cohort / f"{row['slide_id']}.png"), np.full((400, 400, 3), 244, np.uint8))
        enlarge(cohort / f"{row['slide_id']}.png")
    write_sheet(
        cohort / "slides.tsv",
        [{**row, "path": f"{row['slide_id']}.png", "mpp": 0.5} for row in ROWS],
    )
    run = run_snakemake(cohort, "--until", "image")
    assert run.returncode == 0 and run.stdout.rstrip().endswith("The requested part is done."), (
        run.stdout
    )
    (cohort / "b.png").write_bytes(b"no picture")
    enlarge(cohort / "b.png")
    run = run_snakemake(cohort, "--until", "image")
    assert (
        run.stdout.rstrip().endswith("; see results/report.html")
        and "\nb: inspect failed: " in run.stdout
    )
