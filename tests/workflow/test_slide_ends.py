"""Slides that end as ok, partial, empty or failed: the table, the page, the exit status, retries
and reruns.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from slide_files import spoil_tile, write_pyramid
from workflow_runs import (
    draw_stained_slide,
    enlarge,
    find_steps,
    run_snakemake,
    snakemake_command,
    verb,
    write_config,
    write_sheet,
)

from muse_pipeline.core.files import read_json, read_tsv

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ENDS = {"sound": "ok", "with a hole": "partial", "glass": "empty", "broken": "failed"}
UNREADABLE = "broken.tif: is not a slide"


@pytest.fixture(scope="module")
def first_run(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """(folder, first run) of a cohort with a slide for each end; only the broken slide's file lies
    in the folder.
    """
    slides, folder = tmp_path_factory.mktemp("slides"), tmp_path_factory.mktemp("ends")
    paths = {name: slides / f"{name}.tif" for name in ENDS} | {"broken": folder / "broken.tif"}
    draw_stained_slide(paths["sound"], size_px=640, n_nuclei=100)
    draw_stained_slide(paths["with a hole"], size_px=1100, n_nuclei=200)
    spoil_tile(paths["with a hole"], page=0, tile=6)
    write_pyramid(paths["glass"], np.full((640, 640, 3), 244, np.uint8))
    paths["broken"].write_bytes(b"no slide")
    for path in paths.values():
        enlarge(path)
    rows = [
        {"slide_id": name, "path": path.name if path.parent == folder else path}
        for name, path in paths.items()
    ]
    write_sheet(folder / "slides.tsv", rows)
    write_config(folder, max_corrupt=0.5)
    return folder, run_snakemake(folder)


def read_ends(folder: Path) -> dict[str, dict[str, str]]:
    """Slide -> its row of cohort.tsv."""
    return {row["slide_id"]: row for row in read_tsv(folder / "results/cohort.tsv")}


def statuses(folder: Path) -> dict[str, str]:
    return {name: row["status"] for name, row in read_ends(folder).items()}


def identities(folder: Path, slides) -> dict[str, tuple[int, int]]:
    """Inode and time of every file of some slides, including logs and ledgers."""
    files = [
        path for name in slides for path in (folder / "results" / name).rglob("*") if path.is_file()
    ]
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def test_every_end_is_in_table_page_and_exit_status(first_run):
    folder, run = first_run
    assert run.returncode == 1
    assert statuses(folder) == ENDS
    ends = read_ends(folder)
    assert (ends["broken"]["step"], ends["broken"]["nuclei"]) == ("inspect", "")
    assert UNREADABLE in ends["broken"]["reason"]
    assert "1 region could not be decoded, in QuPath pixels (" in ends["with a hole"]["reason"]
    assert ends["glass"]["reason"] == "no tissue was found; see tissue.png"
    assert int(ends["sound"]["nuclei"]) > int(ends["glass"]["nuclei"]) == 0
    page = (folder / "results/report.html").read_text(encoding="utf-8")
    assert all(ends[name]["reason"] in page for name in ENDS)


@pytest.mark.parametrize(
    "arguments", [(), pytest.param(("--retries", "2"), marks=pytest.mark.slow)], ids=" ".join
)
def test_run_again_every_end_is_kept_and_only_what_failed_is_tried(first_run, arguments):
    folder, _ = first_run
    others = identities(folder, ENDS.keys() - {"broken"})
    run = run_snakemake(folder, *arguments)
    assert run.returncode == 1
    tries = 1 + int(arguments[-1] if arguments else 0)
    assert run.stdout.count(UNREADABLE) == tries + 1  # plus once in the list of failed slides
    assert statuses(folder) == ENDS
    assert UNREADABLE in read_json(folder / "results/broken/ledger/inspect.json")["reason"]
    assert identities(folder, ENDS.keys() - {"broken"}) == others


def kill_first(job: str, step: str, folder: Path, *arguments: str) -> tuple[int, str]:
    """Run the workflow, and kill -9 the first process of ``job`` in ``step``; return exit status
    and output.
    """
    ledger = folder / f"results/s/ledger/{step}.json"
    printed = folder / "output.txt"
    with printed.open("w") as file:
        process = subprocess.Popen(
            snakemake_command(*arguments), cwd=folder, stdout=file, stderr=subprocess.STDOUT
        )
        while not (
            victims := [
                each for each in find_steps(process) if verb(each) == job and is_empty(ledger)
            ]
        ):
            assert process.poll() is None, printed.read_text()
            time.sleep(0.005)
        victims[0].kill()
        return process.wait(), printed.read_text()


def is_empty(ledger: Path) -> bool:
    """True while the step of this ledger is under way."""
    return ledger.is_file() and ledger.stat().st_size == 0


@pytest.fixture
def one_slide(tmp_path) -> Path:
    draw_stained_slide(tmp_path / "s.tif", size_px=640, n_nuclei=100)
    enlarge(tmp_path / "s.tif")
    write_sheet(tmp_path / "slides.tsv", [{"slide_id": "s", "path": "s.tif"}])
    write_config(tmp_path)
    return tmp_path


def test_a_killed_step_is_a_failure_unless_a_retry_succeeds(one_slide):
    status, output = kill_first("image", "tissue", one_slide)
    assert status == 1, output
    end = read_ends(one_slide)["s"]
    assert (end["status"], end["step"]) == ("failed", "tissue")
    assert "was killed (out of memory or time?)" in end["reason"]
    status, output = kill_first("detect", "detect-1-of-1", one_slide, "--retries", "1")
    assert status == 0, output
    assert statuses(one_slide) == {"s": "ok"}


@pytest.mark.slow
def test_the_page_about_failures_does_not_pass_for_the_report(one_slide):
    assert run_snakemake(one_slide).returncode == 0
    (one_slide / "results/s/nuclei.parquet").unlink()
    assert kill_first("nuclei", "stitch", one_slide)[0] == 1
    made_again = [f"results/s/{name}" for name in ("nuclei.geojson.gz", "summary.json")]
    assert run_snakemake(one_slide, "--", *made_again).returncode == 0  # with the same bytes
    assert statuses(one_slide)["s"] == "failed"
    assert run_snakemake(one_slide).returncode == 0
    assert statuses(one_slide) == {"s": "ok"}
