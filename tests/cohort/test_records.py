"""Which jobs of a slide are current, and which results remain when jobs are repeated, stopped or
fail.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from muse_pipeline.cohort.records import UNFINISHED, Job, Records, compare, describe_changes
from muse_pipeline.plan import find_replaced

IMAGE = Job("image", {"mpp": 0.5}, writes=["slide.json", "image.zarr"], steps=["inspect", "tile"])
REGIONS = Job("regions", {"regions": "none"}, ["image.zarr"], ["regions.json"])
DETECT = Job("detect-1-of-1", {"model": "compact"}, ["image.zarr"], ["shards/1-of-1.parquet"])
NUCLEI = Job(
    *("nuclei", {"mpp": 0.5, "model": "compact", "csv": False}),
    reads=["slide.json", "regions.json", "shards/1-of-1.parquet"],
    writes=["nuclei.parquet", "overlays"],
    steps=["stitch", "overlay"],
    removes=["nuclei.parquet", "nuclei.csv.gz", "overlays/[0-9].png"],
)
EMBED = Job("embed", {}, ["nuclei.parquet", "image.zarr"], ["embeddings.parquet"])
JOBS = [IMAGE, REGIONS, DETECT, NUCLEI, EMBED]
ALL = [job.name for job in JOBS]
OTHER = {"model": "label_free"}


def run(folder: Path, jobs, until: str | None = None) -> list[str]:
    """Run the outdated jobs, up to the one called ``until``, and return their names."""
    begun = []
    for job in Records(folder, jobs).begin():
        begun.append(job.name)
        write(folder, job)
        if job.name == until:
            break
    return begun


def write(folder: Path, job: Job) -> None:
    """Write the files of a job, each newer than everything in the folder."""
    for name in job.writes:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(exist_ok=True) if name == "overlays" else path.touch()
        make_newest(folder, name)


def make_newest(folder: Path, name: str) -> None:
    latest = max(path.stat().st_mtime_ns for path in folder.rglob("*"))
    os.utime(folder / name, ns=(latest + 1000, latest + 1000))


def outdated(folder: Path, jobs=JOBS) -> list[str]:
    return [job.name for job in Records(folder, jobs).outdated]


def with_settings(*names: str, **settings) -> list[Job]:
    """The jobs, with different settings of the jobs called ``names``."""
    return [
        replace(job, settings={**job.settings, **settings}) if job.name in names else job
        for job in JOBS
    ]


def with_other_model() -> list[Job]:
    return with_settings("detect-1-of-1", "nuclei", **OTHER)


@pytest.fixture
def finished(tmp_path, monkeypatch) -> Path:
    """A folder in which all jobs have run; its path is relative, as in a config."""
    monkeypatch.chdir(tmp_path)
    assert run(Path("S"), JOBS) == ALL
    return Path("S")


def test_a_finished_slide_is_current(finished):
    assert outdated(finished) == []
    assert run(finished, JOBS) == []


@pytest.mark.parametrize(
    "lost, repeated",
    [
        ("slide.json", ALL),
        ("shards/1-of-1.parquet", ["detect-1-of-1", "nuclei", "embed"]),
        ("embeddings.parquet", ["embed"]),
        ("logs/requests/regions.json", ["regions", "nuclei", "embed"]),
    ],
)
def test_a_missing_file_repeats_its_job_and_the_jobs_that_read_it(finished, lost, repeated):
    (finished / lost).unlink()
    assert outdated(finished) == repeated
    assert run(finished, JOBS) == repeated and outdated(finished) == []


@pytest.mark.parametrize(
    "newer, repeated",
    [
        ("slide.json", ["nuclei", "embed"]),
        ("image.zarr", ["regions", "detect-1-of-1", "nuclei", "embed"]),
    ],
)
def test_a_file_that_is_newer_than_the_results_made_from_it_repeats_them(finished, newer, repeated):
    make_newest(finished, newer)
    assert outdated(finished) == repeated


def test_the_stamp_of_snakemake_is_the_time_of_a_folder(finished):
    (finished / "image.zarr").unlink()
    (finished / "image.zarr").mkdir()
    (finished / "image.zarr/.snakemake_timestamp").touch()
    stamp = (finished / "slide.json").stat().st_mtime_ns
    os.utime(finished / "image.zarr/.snakemake_timestamp", ns=(stamp, stamp))
    assert outdated(finished) == []


def test_other_settings_repeat_their_jobs_and_the_jobs_that_read_their_files(finished):
    assert outdated(finished, with_settings("embed", patient="P1")) == ["embed"]
    assert outdated(finished, with_settings("regions", regions="model")) == [
        "regions",
        "nuclei",
        "embed",
    ]
    assert (
        outdated(finished, with_settings("nuclei", patient=None)) == []
    )  # as if it had not existed before


@pytest.mark.parametrize("content", ["", '{"mpp": ', "[]"])
def test_a_damaged_request_is_no_request(finished, content):
    (finished / "logs/requests/nuclei.json").write_text(content)
    assert outdated(finished) == ["nuclei", "embed"]
    assert Records(finished, JOBS).changes() == ["settings that are not recorded"]


def test_files_that_were_deleted_because_no_job_needed_them_are_made_only_for_a_job_that_runs(
    finished,
):
    jobs = [replace(job, temporary=["image.zarr", "shards/1-of-1.parquet"]) for job in JOBS]
    for name in ("image.zarr", "shards/1-of-1.parquet"):
        (finished / name).unlink()
    assert outdated(finished, jobs) == []
    (finished / "nuclei.parquet").unlink()
    assert (
        outdated(finished, jobs) == ALL
    )  # the image must be read again, and regions and nuclei are made from it


def test_a_killed_run_continues_with_the_job(finished):
    assert run(finished, with_settings(*ALL, mpp=0.25), until="detect-1-of-1") == ALL[:3]
    assert outdated(finished, with_settings(*ALL, mpp=0.25)) == ["nuclei", "embed"]
    assert outdated(finished) == ALL


def test_before_a_job_begins_the_earlier_settings_are_current(finished):
    """A run can be stopped when it names the results that it replaces."""
    times = {path: path.stat().st_mtime_ns for path in finished.rglob("*.json")}
    for jobs in (with_other_model(), with_settings("nuclei", csv=True)):
        Records(finished, jobs).write_requests()
        assert "nuclei" in outdated(finished, jobs)
        assert outdated(finished) == []
    Records(finished, JOBS).write_requests()
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*.json")} == times


@pytest.mark.parametrize("begun", ["detect-1-of-1", "nuclei", "embed"])
def test_once_a_job_has_begun_the_earlier_settings_are_not_current(finished, begun):
    run(finished, with_other_model(), until=begun)
    Records(finished, with_settings("nuclei", csv=True)).write_requests()
    assert outdated(finished) == ["detect-1-of-1", "nuclei", "embed"]
    Records(finished, JOBS).write_requests()
    assert outdated(finished) == ["detect-1-of-1", "nuclei", "embed"]


def test_results_made_with_settings_in_between_are_not_those_of_the_settings_before(finished):
    """Snakemake writes all requests of a run first; a rule then makes files without ``begin``."""
    Records(finished, with_settings("nuclei", csv=True)).write_requests()
    write(finished, NUCLEI)
    Records(finished, JOBS).write_requests()
    assert "nuclei" in outdated(finished)


def test_a_job_that_was_stopped_midway_leaves_nothing_that_an_earlier_request_explains(finished):
    """Its files are newer than its request, but older than the request of a third run."""
    other = with_other_model()
    Records(finished, other).begin()
    write(finished, replace(NUCLEI, writes=["nuclei.parquet"]))
    Records(finished, with_settings("nuclei", csv=True)).write_requests()
    write(finished, replace(NUCLEI, writes=["overlays"]))
    assert "nuclei" in outdated(finished)


def test_jobs_that_begin_remove_what_they_replace_and_nothing_of_the_users(finished):
    names = "nuclei.csv.gz nuclei.qpdata overlays/1.png overlays/mine.png ledger/overlay.json"
    for name in names.split():
        (finished / name).parent.mkdir(exist_ok=True)
        (finished / name).touch()
    Records(finished, with_settings("nuclei", csv=True)).begin()
    kept = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    lost = {
        "nuclei.parquet",
        "nuclei.csv.gz",
        "overlays/1.png",
        "embeddings.parquet",
        "ledger/overlay.json",
    }
    assert not lost & kept
    assert {
        "nuclei.qpdata",
        "overlays/mine.png",
        "shards/1-of-1.parquet",
        "image.zarr",
        "regions.json",
    } <= kept


def note(folder: Path, step: str, status: str | None) -> None:
    """Write a ledger, which is empty if ``status`` is None."""
    (folder / "ledger").mkdir(exist_ok=True)
    text = "" if status is None else json.dumps({"step": step, "status": status, "reason": "why"})
    (folder / f"ledger/{step}.json").write_text(text)


def test_a_job_killed_after_its_last_file_is_repeated(finished):
    note(finished, "overlay", None)
    assert outdated(finished) == ["nuclei", "embed"]
    assert find_replaced(Records(finished, JOBS)) == [UNFINISHED]
    note(finished, "overlay", "ok")
    note(finished, "stitch", None)  # of an earlier run: a later step has ended
    assert outdated(finished) == []


@pytest.mark.parametrize("status", ["failed", None])
def test_a_failed_step_leaves_no_results_that_it_should_have_replaced(finished, status):
    other = with_settings(*ALL, mpp=0.25)
    records = Records(finished, other)
    records.write_requests()
    for name in IMAGE.writes:
        (finished / name).unlink()  # by Snakemake, before the job
    write(finished, replace(IMAGE, writes=["slide.json"]))
    note(finished, "inspect", "ok")
    note(finished, "tile", status)
    Records(finished, other).withdraw_failed()
    left = {
        path.name for path in finished.rglob("*") if path.parent.name not in {"requests", "ledger"}
    }
    assert "slide.json" in left and not left & {
        "nuclei.parquet",
        "embeddings.parquet",
        "1-of-1.parquet",
    }


def test_nothing_is_left_that_was_made_from_files_that_a_failed_step_should_have_made_again(
    finished,
):
    (finished / "shards/1-of-1.parquet").unlink()
    note(finished, "detect-1-of-1", "failed")
    Records(finished, JOBS).withdraw_failed()
    assert not (finished / "nuclei.parquet").exists() and (finished / "image.zarr").exists()


def test_a_failed_region_model_costs_no_nuclei(finished):
    note(finished, "regions", "failed")
    (finished / "logs/requests/regions.json").unlink()  # so that the next run tries again
    Records(finished, JOBS).withdraw_failed()
    assert (finished / "nuclei.parquet").exists() and outdated(finished) == [
        "regions",
        "nuclei",
        "embed",
    ]


def test_without_a_failed_step_nothing_is_removed(finished):
    note(finished, "tile", "interrupted")
    Records(finished, with_settings(*ALL, mpp=0.25)).withdraw_failed()
    assert (finished / "nuclei.parquet").exists()


def test_failures_of_steps_that_are_not_requested_are_forgotten(finished):
    for step, status in (
        ("embed", "failed"),
        ("propose-1-of-2", None),
        ("stitch-proposals", "ok"),
        ("tile", "failed"),
    ):
        note(finished, step, status)
    Records(finished, JOBS[:-1]).remove_unrequested([])
    assert {path.stem for path in (finished / "ledger").iterdir()} == {"stitch-proposals", "tile"}


def test_a_result_that_is_not_requested_is_removed_only_if_it_has_outdated_cells_of_the_sheet(
    finished,
):
    requested, other = JOBS[:-1], replace(EMBED, settings={"patient": "P1"})
    for patient, is_kept in (("P1", False), (None, True)):
        run(finished, JOBS)
        Records(finished, requested).remove_unrequested(
            [replace(other, settings={"patient": patient})]
        )
        assert (finished / "embeddings.parquet").exists() is is_kept


def test_what_has_changed_is_named_once(finished):
    assert Records(finished, with_other_model()).changes() == ["model compact -> label_free"]
    Records(finished, with_other_model()).write_requests()  # of a run that was stopped
    assert Records(finished, with_other_model()).changes() == ["model compact -> label_free"]


def test_a_file_that_makes_a_run_repeat_jobs_is_named(finished):
    (finished / "overlays").rmdir()
    make_newest(finished, "slide.json")
    expected = ["overlays is missing", "slide.json is newer than the results made from it"]
    assert Records(finished, JOBS).changes() == expected


def test_values_that_no_reader_understands_are_phrases(tmp_path):
    now = {"slide": str(tmp_path / "a.svs"), "slide files": "0f", "mpp": 0.5, "quality": None}
    assert compare(None, now) is compare([], now) is None
    assert compare({**now, "mpp": "of the file"}, now) == {"mpp": "mpp of the file -> 0.5"}
    moved = {"slide": "slide files at another location", "slide files": "changed slide files"}
    assert compare({**now, "slide": "/elsewhere/a.svs", "slide files": "1a"}, now) == moved
    (tmp_path / "link.svs").symlink_to(tmp_path / "a.svs")
    assert compare({**now, "slide": str(tmp_path / "link.svs")}, now) == {}


def test_a_job_that_has_recorded_a_failure_is_repeated(finished):
    jobs = [replace(job, outcome="regions.json") if job is REGIONS else job for job in JOBS]
    assert outdated(finished, jobs) == []
    path, time_ns = finished / "regions.json", (finished / "regions.json").stat().st_mtime_ns
    path.write_text('{"status": "failed"}')
    os.utime(path, ns=(time_ns, time_ns))
    assert outdated(finished, jobs) == ["regions", "nuclei", "embed"]
    Records(finished, jobs).begin()
    (finished / "regions.json").write_text('{"status": "ok"}')
    make_newest(finished, "regions.json")
    for job in jobs[2:]:
        write(finished, job)
    assert outdated(finished, jobs) == []


def test_a_run_continues_what_a_killed_one_began_and_replaces_what_it_finished(finished):
    (finished / "overlays").rmdir()  # killed between the two files
    assert find_replaced(Records(finished, JOBS)) == [UNFINISHED]
    assert find_replaced(Records(finished, with_other_model())) == ["model compact -> label_free"]
    assert describe_changes({"img64": [UNFINISHED]}) == ["This run continues img64."]
    continued, replaced, *_ = describe_changes({"img64": [UNFINISHED], "b": ["roi none -> r"]})
    assert continued == "This run continues img64."
    assert replaced == "This run replaces the finished results of 1 slide:"
