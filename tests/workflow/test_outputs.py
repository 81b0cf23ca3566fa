"""An output added by another package: `muse run` and the workflow write it, and again if its title
has changed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
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

from muse_pipeline.cohort.ledgers import read_progress
from muse_pipeline.core.files import read_tsv


def install(folder: Path) -> None:
    """Install the output as a package in ``folder``, for processes with this folder on their Python
    path.
    """
    shutil.copy(Path(__file__).parents[1] / "support/toy_output.py", folder)
    about = folder / "toy_output-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: toy-output\nVersion: 1.0\n", encoding="utf-8"
    )
    entry = "[muse_pipeline.outputs]\ntoy = toy_output:Toy\n"
    (about / "entry_points.txt").write_text(entry, encoding="utf-8")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    """A folder with a slide, a sheet, and a package that adds an output."""
    folder = tmp_path_factory.mktemp("toy")
    draw_stained_slide(folder / "a.tif", size_px=500, n_nuclei=60)
    enlarge(folder / "a.tif")
    write_sheet(folder / "slides.tsv", [{"slide_id": "a", "path": "a.tif"}])
    write_config(folder, toy=True, toy_title="A slide")
    (folder / "packages").mkdir()
    install(folder / "packages")
    return folder


@pytest.fixture
def with_toy(cohort, monkeypatch):
    """Let processes find the package, by setting their environment."""
    paths = [str(cohort / "packages"), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


def muse(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "muse_pipeline.cli.main", *arguments]
    return subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, check=True, text=True).stdout


def warnings_in(report: Path) -> str:
    (row,) = read_tsv(report)
    return row["warnings"]


def test_an_output_of_one_file_is_written_and_reported(cohort, with_toy):
    options = ["a.tif", "-o", "results", "--no-viewer"]
    muse(cohort, "run", *options, "--toy", "--toy-title", "A slide")
    written = cohort / "results/a/toy.txt"
    title, n = written.read_text(encoding="utf-8").splitlines()
    assert title == "A slide" and int(n) > 30
    assert "toy.txt has no classes" in warnings_in(cohort / "results/cohort.tsv")
    (record,) = (each for each in read_progress(cohort / "results/a") if each.step == "toy")
    assert (record.status, record.warnings) == ("ok", ("toy.txt has no classes",))
    shards = (cohort / "results/a/shards/1-of-1.parquet").stat().st_mtime_ns
    shown = muse(cohort, "run", *options, "--toy", "--toy-title", "Another")
    assert "  toy_title A slide -> Another: 1 slide (a)" in shown
    assert written.read_text(encoding="utf-8") == f"Another\n{n}\n"
    assert (cohort / "results/a/shards/1-of-1.parquet").stat().st_mtime_ns == shards


@pytest.mark.slow
def test_the_workflow_plans_an_output_of_one_file(cohort, with_toy):
    muse(cohort, "run", "a.tif", "-o", "results", "--no-viewer", "--toy", "--toy-title", "Another")
    plans = {
        "toy_title=Another": {"report": 1, "all": 1},
        "toy_title=A slide": {"nuclei": 1, "report": 1, "all": 1},
        "toy=False": {"nuclei": 1, "report": 1, "all": 1},
    }
    for change, jobs in plans.items():
        run = run_snakemake(cohort, "--dry-run", "--config", "viewer=False", change)
        assert planned_jobs(run.stdout) == jobs, (change, run.stdout)
    (cohort / "results/a/toy.txt").unlink()
    changes = "viewer=False", "toy_title=Another"
    assert (
        planned_jobs(run_snakemake(cohort, "--dry-run", "--config", *changes).stdout)["nuclei"] == 1
    )
    assert "toy_titel" in run_snakemake(cohort, "--dry-run", "--config", "toy_titel=x").stdout
