"""A settled slide has no jobs in the plan, and changes are planned as if the record of settled slides did not exist."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from pathlib import Path

import pytest
from workflow_runs import draw_stained_slide, planned_jobs, run_snakemake, write_config, write_sheet

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROWS = [{"slide_id": name, "path": f"{name}.tif"} for name in ("a", "b")]
FILES = [
    *("a.tif", "results/a/image-500nm.zarr", "results/a/shards/1-of-1.parquet"),
    *("results/a/nuclei.parquet", "results/report.html"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a cohort that has run."""
    folder = tmp_path_factory.mktemp("settled")
    for row in ROWS:
        draw_stained_slide(folder / row["path"], size_px=500, n_nuclei=60)
    write_sheet(folder / "slides.tsv", ROWS)
    write_config(folder)
    run = run_snakemake(folder)
    assert run.returncode == 0, run.stdout
    return folder


def plan(folder: Path, *arguments: str) -> tuple[dict[str, int], set[str]]:
    """(rule -> number of jobs that a run would execute, slides with jobs in the graph, even if these would not run)."""
    run = run_snakemake(folder, "--dry-run", "--debug-dag", *arguments)
    assert run.returncode == 0, run.stdout
    return planned_jobs(run.stdout), {name for name in "abcd" if f"slide={name}" in run.stdout}


@contextmanager
def forgotten(folder: Path):
    """Within this context, the record of complete slides does not exist."""
    kept = (folder / "results/logs/settled.json").rename(folder / "settled.json")
    yield
    kept.rename(folder / "results/logs/settled.json")


@contextmanager
def removed(path: Path):
    """Within this context, a file does not exist."""
    kept = path.rename(path.with_name("kept"))
    yield
    kept.rename(path)


@contextmanager
def touched(path: Path):
    """Within this context, a file is newer than all results."""
    stamp = path / ".snakemake_timestamp" if path.is_dir() else path
    before = stamp.stat()
    os.utime(stamp)
    yield
    os.utime(stamp, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_finished_cohort_has_no_jobs_of_slides(finished):
    assert plan(finished) == ({}, set())
    with forgotten(finished):
        assert plan(finished) == ({}, {"a", "b"})


@pytest.mark.parametrize("change", [removed, touched])
@pytest.mark.parametrize("name", FILES)
def test_a_change_of_a_file_is_planned_as_without_the_record(finished, name, change):
    if name == "a.tif" and change is removed:
        pytest.skip("the sheet is rejected")
    with change(finished / name):
        planned, slides = plan(finished)
        with forgotten(finished):
            assert planned == plan(finished)[0]
    assert slides == ({"a"} if "a" in Path(name).parts or name == "a.tif" else set())


@pytest.mark.parametrize(
    "arguments",
    [
        ["--forceall"],
        ["--forcerun", "detect"],
        ["--until", "image"],
        ["--batch", "report=1/2", "--", "report"],
        ["--config", "max_corrupt=0.5"],
        ["--config", "provider=openvino", "--jobs", "1"],
        ["--", "results/a/nuclei.parquet"],
    ],
    ids=" ".join,
)
def test_what_is_asked_for_is_planned_as_without_the_record(finished, arguments):
    planned, _ = plan(finished, *arguments)
    with forgotten(finished):
        assert planned == plan(finished, *arguments)[0]


def test_a_new_row_is_planned_alone_and_a_failed_slide_is_planned_again(finished):
    (finished / "c.tif").write_bytes(b"no slide")
    write_sheet(finished / "slides.tsv", [*ROWS, {"slide_id": "c", "path": "c.tif"}])
    assert plan(finished) == ({"image": 1, "detect": 1, "nuclei": 1, "report": 1, "all": 1}, {"c"})
    assert run_snakemake(finished).returncode == 1
    settled = json.loads((finished / "results/logs/settled.json").read_text("utf-8"))
    assert settled["slides"].keys() == {"a", "b"}
    assert plan(finished)[1] == {"c"}
    draw_stained_slide(finished / "c.tif", size_px=500, n_nuclei=60)
    assert run_snakemake(finished).returncode == 0
    assert plan(finished)[1] == set()


@pytest.mark.parametrize("text", ["{}", "[]", "no JSON", '{"files": 1, "slides": {"a": 2}}'])
def test_a_record_that_cannot_be_read_is_no_record(finished, text):
    settled = finished / "results/logs/settled.json"
    record = settled.read_text("utf-8")
    settled.write_text(text, "utf-8")
    assert plan(finished)[1] == {"a", "b", "c"}
    settled.write_text(record, "utf-8")
    assert plan(finished)[1] == set()


def test_a_slide_whose_results_are_removed_at_the_end_of_a_run_is_planned_again(finished):
    """The slide has a failed step for which no job is planned; its results are removed when a different slide fails."""
    ledger = json.loads((finished / "results/a/ledger/inspect.json").read_text("utf-8"))
    (finished / "results/a/ledger/other-plugin.json").write_text(json.dumps({**ledger, "status": "failed"}), "utf-8")
    (finished / "d.tif").write_bytes(b"no slide")
    write_sheet(finished / "slides.tsv", [*ROWS, {"slide_id": "d", "path": "d.tif"}])
    (finished / "results/logs/settled.json").unlink()
    assert run_snakemake(finished).returncode == 1
    assert not (finished / "results/a/nuclei.parquet").exists()
    assert plan(finished)[1] == {"a", "d"}
