"""A small cohort, run once without disturbance."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from undisturbed import SLIDE, Undisturbed, read_results
from workflow_runs import draw_stained_slide, run_snakemake, write_config, write_sheet


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    draw_stained_slide(folder / f"{SLIDE}.tif", size_px=640, n_nuclei=100)
    write_sheet(folder / "slides.tsv", [{"slide_id": SLIDE, "path": folder / f"{SLIDE}.tif", "shards": 2}])
    write_config(folder)
    started = time.monotonic()
    run = run_snakemake(folder)
    assert run.returncode == 0, run.stdout
    return Undisturbed(folder, time.monotonic() - started, read_results(folder))


@pytest.fixture
def untouched(undisturbed, tmp_path) -> Path:
    """A folder with the cohort's sheet and config, where nothing has run."""
    for name in ("slides.tsv", "config.yaml"):
        shutil.copy2(undisturbed.folder / name, tmp_path)
    return tmp_path


@pytest.fixture
def finished(undisturbed, tmp_path) -> Path:
    """A folder where the cohort has run."""
    return shutil.copytree(undisturbed.folder, tmp_path / "finished", symlinks=True)
