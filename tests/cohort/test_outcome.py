"""Which files of a slide remain after steps failed, and what is printed about these steps."""

import json

import pytest
from nuclei_example import PROVENANCE

from muse_pipeline.cohort.outcome import (
    describe_nuclei,
    failed_steps,
    find_failure,
    read_entries,
    remove_failed,
    remove_unrequested_steps,
)
from muse_pipeline.outputs.base import file_patterns

STORE = "image-500nm.zarr"
NUCLEI = {
    "nuclei.parquet",
    "nuclei.geojson.gz",
    "nuclei.part-001.geojson.gz",
    "summary.json",
    "overlays/1.png",
    "viewer/index.html",
    "artefacts.geojson",
}
PROPOSALS = {"proposals.parquet", "proposals.geojson.gz"}
OWN = {"nuclei.qpdata", "overlays/mine.png"}


@pytest.fixture
def folder(tmp_path):
    """The folder of a finished slide, with proposals, files that the user added, and the fetched copy of the slide."""
    for name in (*NUCLEI, *PROPOSALS, *OWN, "fetched/a.svs"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def note(folder, step, status="ok"):
    """Write a ledger, which is empty if ``status`` is None."""
    ledger = folder / f"ledger/{step}.json"
    ledger.parent.mkdir(exist_ok=True)
    ledger.write_text("" if status is None else json.dumps({"step": step, "status": status, "reason": "why"}))
    return ledger


def left(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {"ledger"}


@pytest.mark.parametrize(
    ("step", "lost"),
    [
        ("tissue", NUCLEI | PROPOSALS),
        (f"tile-{STORE}", NUCLEI | PROPOSALS),
        ("tile-image-250nm.zarr", set()),
        ("propose-1-of-1", PROPOSALS),
        ("stitch-proposals", PROPOSALS),
        ("detect-1-of-1", NUCLEI | PROPOSALS),
    ],
)
@pytest.mark.parametrize("status", ["failed", None])
def test_a_failed_step_costs_what_follows_from_it_and_nothing_of_the_users(folder, step, lost, status):
    note(folder, step, status)
    note(folder, "inspect")
    assert failed_steps(folder) == {step}
    remove_failed(folder, STORE, file_patterns())
    kept = {name for name in left(folder) if not name.startswith("ledger")}
    assert kept == (NUCLEI | PROPOSALS | OWN) - lost


def test_an_interrupted_step_has_not_failed(folder):
    note(folder, "tile", "interrupted")
    assert failed_steps(folder) == set()


def test_the_first_failure_of_a_job_explains_it(folder):
    ledgers = [folder / f"ledger/{step}.json" for step in ("inspect", "tissue", f"tile-{STORE}")]
    note(folder, "inspect")
    assert find_failure(read_entries(ledgers)) is None
    note(folder, "tissue", "failed")
    note(folder, f"tile-{STORE}", None)
    assert find_failure(read_entries(ledgers)) == ("tissue", "why")
    assert [entry["step"] for entry in read_entries(ledgers)] == ["inspect", "tissue"]


def test_steps_that_are_not_asked_for_any_more_are_forgotten(folder):
    kept = [note(folder, step) for step in (f"tile-{STORE}", "propose-1-of-2", "inspect")]
    gone = [
        note(folder, "fetch", "failed"),
        note(folder, "regions", "failed"),
        note(folder, "embed", "failed"),
        note(folder, "tile-image-250nm.zarr"),
        note(folder, "propose-2-of-2", None),
    ]
    everything = {folder / STORE, folder / "image-250nm.zarr"}
    remove_unrequested_steps(folder, everything, has_proposals=True)
    assert all(ledger.exists() for ledger in kept + gone)
    remove_unrequested_steps(folder, {folder / STORE}, ["fetch", "regions", "embed"])
    assert ([ledger.exists() for ledger in kept], [ledger.exists() for ledger in gone]) == ([True] * 3, [False] * 5)
    assert (folder / "proposals.parquet").exists()


def test_one_nucleus_is_no_plural():
    summaries = [{"n_nuclei": n, "provenance": PROVENANCE} for n in (1, 1200)]
    assert list(map(describe_nuclei, summaries)) == ["1 nucleus", "1,200 nuclei"]
