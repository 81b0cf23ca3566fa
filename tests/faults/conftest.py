"""Fixtures: a small cohort, run once without disturbance."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from undisturbed import SLIDE, Undisturbed, read_results
from workflow_runs import draw_stained_slide, enlarge, run_snakemake, write_config, write_sheet


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    draw_stained_slide(folder / f"{SLIDE}.tif", size_px=640, n_nuclei=100)
    enlarge(folder / f"{SLIDE}.tif")
    write_sheet(
        folder / "slides.tsv", [{"slide_id": SLIDE, "path": folder / f"{SLIDE}.tif", "shards": 2}]
    )
    write_config(folder)
    started = time.monotonic()
    run = run_snakemake(folder)
    assert run.returncode == 0, run.stdout
    return Undisturbed(folder, time.monotonic() - started, read_results(folder))


@pytest.fixture
def untouched(undisturbed, tmp_path) -> Path:
    """A folder with the cohort's sheet and config, before any run."""
    for name in ("slides.tsv", "config.yaml"):
        shutil.copy2(undisturbed.folder / name, tmp_path)
    return tmp_path


@pytest.fixture
def finished(undisturbed, tmp_path) -> Path:
    """A copy of the folder of the finished cohort."""
    return shutil.copytree(undisturbed.folder, tmp_path / "finished", symlinks=True)


@pytest.fixture
def mount() -> Iterator[Callable[[Path, str], None]]:
    """A function that mounts a tmpfs with given options on a folder, or changes the options if it
    is mounted.
    """
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    disks = []

    def mount_disk(folder: Path, options: str) -> None:
        how = f"remount,{options}" if folder.is_mount() else options
        run = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", how, "tmpfs", folder],
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode:
            pytest.skip(f"no disk can be mounted here: {run.stderr.strip()}")
        disks.append(folder)

    yield mount_disk
    for disk in set(disks):
        subprocess.run(["umount", "--lazy", disk], check=True)
