"""Small slides run in batches: with the bytes of the rules of large slides, and failures that cost
one slide.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from workflow_runs import (
    draw_stained_slide,
    enlarge,
    kill_when,
    planned_jobs,
    run_snakemake,
    write_config,
    write_sheet,
)

from muse_pipeline.core.files import read_tsv

pytestmark = pytest.mark.timeout(900)

SMALL = ("a", "b", "broken")
LARGE = {"image": 1, "detect": 1, "nuclei": 1}
REPORT = {"report": 1, "all": 1}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """A folder with three small slides, of which one is broken, and a large one."""
    folder = tmp_path_factory.mktemp("batches")
    for name in ("a", "b", "large"):
        draw_stained_slide(folder / f"{name}.tif", size_px=500, n_nuclei=60, seed=len(name))
    enlarge(folder / "large.tif")
    (folder / "broken.tif").write_bytes(b"no slide")
    write_sheet(
        folder / "slides.tsv",
        [{"slide_id": name, "path": f"{name}.tif"} for name in (*SMALL, "large")],
    )
    write_config(folder, csv=True)
    return folder


@pytest.fixture(scope="module")
def first_run(drawn):
    return run_snakemake(drawn)


def statuses(folder: Path) -> dict[str, str]:
    return {row["slide_id"]: row["status"] for row in read_tsv(folder / "results/cohort.tsv")}


def results_of(folder: Path, slide: str, output: str = "results") -> dict[str, bytes]:
    names = (
        "slide.json",
        "tissue.npz",
        "shards/1-of-1.parquet",
        "nuclei.parquet",
        "nuclei.geojson.gz",
        "nuclei.csv.gz",
    )
    return {
        name: (folder / output / slide / name).read_bytes() for name in (*names, "summary.json")
    }


def identities(folder: Path, *slides: str) -> dict[str, tuple[int, int]]:
    files = [
        path
        for slide in slides
        for path in (folder / "results" / slide).rglob("*")
        if path.is_file()
    ]
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def test_small_slides_are_one_job_and_a_broken_one_costs_itself_alone(drawn, first_run):
    assert first_run.returncode == 1
    assert planned_jobs(first_run.stdout) == {"small_slides": 1, **LARGE, **REPORT}
    lines = [
        line for line in first_run.stdout.splitlines() if re.match(r"(a|b|broken|large): ", line)
    ]
    assert len(lines) == 4 and {line[-8:] for line in lines} == {f"({n} of 4)" for n in range(1, 5)}
    assert next(line for line in lines if line.startswith("broken: ")).startswith(
        "broken: inspect failed: "
    )
    assert statuses(drawn) == {"a": "ok", "b": "ok", "broken": "failed", "large": "ok"}
    assert not list((drawn / "results/logs/batches").glob("*.done"))


def test_the_bytes_are_those_of_the_rules_and_of_muse_run(drawn, first_run, muse, tmp_path):
    by_rules = run_snakemake(
        drawn, "--config", "output=by_rules", "--", "by_rules/a/nuclei.parquet"
    )
    assert planned_jobs(by_rules.stdout) == LARGE
    muse.ok(f"run {drawn / 'a.tif'} --csv -o {tmp_path}")
    by_batch = results_of(drawn, "a")
    assert results_of(drawn, "a", "by_rules") == by_batch == results_of(tmp_path, "a", "")


def test_a_repaired_slide_is_run_alone_and_then_nothing_is_left_to_do(drawn, first_run, tmp_path):
    folder = shutil.copytree(drawn, tmp_path / "repaired")
    rows = [{"slide_id": name, "path": drawn / f"{name}.tif"} for name in ("a", "b", "large")]
    draw_stained_slide(folder / "broken.tif", size_px=500, n_nuclei=60)
    write_sheet(
        folder / "slides.tsv", [*rows, {"slide_id": "broken", "path": folder / "broken.tif"}]
    )
    before = identities(folder, "a", "b", "large")
    run = run_snakemake(folder)
    assert run.returncode == 0, run.stdout
    assert identities(folder, "a", "b", "large") == before and set(statuses(folder).values()) == {
        "ok"
    }
    assert "Nothing to be done" in run_snakemake(folder).stdout


@pytest.mark.slow
def test_a_killed_batch_goes_on_with_the_slide_that_it_was_at(drawn, first_run, tmp_path):
    write_sheet(
        tmp_path / "slides.tsv",
        [{"slide_id": name, "path": drawn / f"{name}.tif"} for name in ("a", "b")],
    )
    write_config(tmp_path, csv=True)
    kill_when((tmp_path / "results/a/summary.json").exists, tmp_path)
    before = identities(tmp_path, "a")
    run = run_snakemake(tmp_path)
    assert run.returncode == 0, run.stdout
    kept = {
        path: identity
        for path, identity in before.items()
        if "/logs/" not in path and "/ledger/" not in path
    }
    assert kept.items() <= identities(tmp_path, "a").items() or "summary.json" not in str(kept)
    assert [results_of(tmp_path, name) for name in ("a", "b")] == [
        results_of(drawn, name) for name in ("a", "b")
    ]


def test_slides_are_not_in_batches_if_other_jobs_need_their_files(drawn):
    run = run_snakemake(
        drawn, "--dry-run", "--config", "proposals={method: haematoxylin}", "output=elsewhere"
    )
    assert "small_slides" not in planned_jobs(run.stdout) and planned_jobs(run.stdout)["image"] == 4
