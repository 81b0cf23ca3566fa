"""The workflow as a user runs it, on slides drawn for the purpose: one of them broken."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from labelled import draw_labelled_folder
from labelled import write_config as write_training_config
from qupath_check import check_geojson
from workflow_runs import (
    draw_stained_slide,
    planned_jobs,
    run_snakemake,
    snakemake_command,
    write_config,
    write_sheet,
)

from muse_pipeline.inference.model import find_model

pytestmark = pytest.mark.timeout(1200)  # a test here is a run or two of the workflow, on a machine that may be busy

IDS = ("S 12 [a]", "Ä-(2)")  # names that shells and patterns could trip over
BROKEN = {"slide_id": "broken", "path": "broken.svs", "shards": "", "patient": ""}


def sheet_rows(shards=("", "2"), patient=""):
    return [
        {"slide_id": name, "path": f"{name}.tif", "shards": n, "patient": patient}
        for name, n in zip(IDS, shards, strict=True)
    ]


def exported(folder: Path, slide: str, results="results") -> bytes:
    return (folder / results / slide / "nuclei.geojson.gz").read_bytes()


@pytest.fixture(scope="module")
def slides(tmp_path_factory) -> Path:
    """A folder of slides: two copies of one, and one that is none."""
    folder = tmp_path_factory.mktemp("slides")
    draw_stained_slide(folder / f"{IDS[0]}.tif", size_px=1100, n_nuclei=300)  # four windows
    shutil.copy(folder / f"{IDS[0]}.tif", folder / f"{IDS[1]}.tif")
    (folder / "broken.svs").write_bytes(bytes(range(256)) * 4)
    return folder


def make_cohort(folder: Path, slides: Path, rows, **settings) -> Path:
    for slide in slides.iterdir():
        (folder / slide.name).symlink_to(slide)
    write_sheet(folder / "slides.tsv", rows)
    write_config(folder, **settings)
    return folder


@pytest.fixture(scope="module")
def first_run(tmp_path_factory, slides):
    """(folder, what Snakemake printed) of the cohort with its broken slide."""
    folder = make_cohort(tmp_path_factory.mktemp("cohort"), slides, [*sheet_rows(), BROKEN])
    return folder, run_snakemake(folder)


@pytest.fixture(scope="module")
def finished(first_run) -> Path:
    """The cohort's folder after its broken slide was taken out of the sheet."""
    folder, _ = first_run
    write_sheet(folder / "slides.tsv", sheet_rows())
    run = run_snakemake(folder)
    assert run.returncode == 0, run.stdout
    assert planned_jobs(run.stdout) == {"report": 1, "all": 1}
    return folder


def test_a_broken_slide_costs_one_slide(first_run):
    folder, run = first_run
    assert run.returncode == 1
    assert "broken.svs: is not a slide" in run.stdout
    assert "Which, and why: results/report.html" in run.stdout
    table = (folder / "results/cohort.tsv").read_text(encoding="utf-8").splitlines()
    assert [line.split("\t")[:3] for line in table[1:]] == [
        [IDS[0], "ok", ""],
        [IDS[1], "ok", ""],
        ["broken", "failed", "inspect"],
    ]
    assert "broken.svs: is not a slide" in (folder / "results/report.html").read_text(encoding="utf-8")
    assert json.loads((folder / "results/broken/ledger/inspect.json").read_text())["status"] == "failed"
    assert not list((folder / "results/broken").glob("nuclei*"))


def test_the_geojson_is_what_qupath_reads(first_run):
    folder, _ = first_run
    path = folder / "results" / IDS[0] / "nuclei.geojson.gz"
    assert check_geojson(path).is_good
    features = json.loads(gzip.decompress(path.read_bytes()))["features"]
    assert len(features) > 150  # of 300 drawn ones, many of which touch


def test_shards_do_not_change_a_byte(first_run):
    folder, _ = first_run
    assert (folder / "results" / IDS[1] / "shards/2-of-2.parquet").is_file()
    whole, halves = [json.loads(gzip.decompress(exported(folder, slide)))["features"] for slide in IDS]
    for feature in [*whole, *halves]:
        del feature["id"]  # made from the slide_id too
    assert whole == halves


def test_without_snakemake_the_bytes_are_the_same(first_run, slides, tmp_path, muse):
    folder, _ = first_run
    status, _, errors = muse("run", slides / f"{IDS[0]}.tif", slides / "broken.svs", "-o", tmp_path, "--shards", 3)
    assert (status, "1 of 2 slides failed (broken)" in errors) == (2, True)
    for name in ("nuclei.geojson.gz", "nuclei.parquet", "tissue.npz", "colour.json", "summary.json", "viewer/slide.js"):
        found, expected = tmp_path / IDS[0] / name, folder / "results" / IDS[0] / name
        assert found.read_bytes() == expected.read_bytes(), name
    assert "broken.svs: is not a slide" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_second_run_has_nothing_to_do(finished):
    run = run_snakemake(finished)
    assert run.returncode == 0
    assert "Nothing to be done" in run.stdout


def test_effective_settings_are_written_down(finished):
    settings = (finished / "results/run_config.yaml").read_text(encoding="utf-8")
    assert "model: compact" in settings
    rows = json.loads((finished / "results/sheet.json").read_text(encoding="utf-8"))
    assert [(row["slide_id"], row["shards"]) for row in rows] == [(IDS[0], 1), (IDS[1], 2)]


def test_an_edited_row_reruns_its_slide_alone(finished):
    write_sheet(finished / "slides.tsv", sheet_rows(shards=("3", "2")))
    assert planned_jobs(run_snakemake(finished, "--dry-run").stdout) == {
        **{"detect": 3, "nuclei": 1, "report": 1, "all": 1},
    }
    write_sheet(finished / "slides.tsv", sheet_rows(patient="P1"))
    assert planned_jobs(run_snakemake(finished, "--dry-run").stdout) == {"report": 1, "all": 1}
    write_sheet(finished / "slides.tsv", sheet_rows())


@pytest.mark.parametrize(
    ("setting", "jobs"),  # each setting for itself: tests/workflow/test_reruns.py
    [
        ("max_corrupt=0.5", {"image": 2, "detect": 3, "nuclei": 2}),
        pytest.param("model=tiny.yaml", {"finetune": 1, "export": 1, "detect": 3, "nuclei": 2}, marks=pytest.mark.slow),
    ],
)
def test_a_setting_reruns_what_depends_on_it(finished, setting, jobs):
    write_training_config(draw_labelled_folder(finished, n_pictures=1))
    planned = planned_jobs(run_snakemake(finished, "--dry-run", "--config", setting).stdout)
    assert planned == {**jobs, "report": 1, "all": 1}


BEHIND_DETECTION = {"detect", "nuclei"}


@pytest.mark.parametrize(
    ("lost", "made"),  # of the first slide, which has one shard, and of the second, which has two
    [
        (("shards/1-of-1.parquet", "colour.json"), {"image": 1, "detect": 3, "nuclei": 2}),
        (("image-500nm.zarr", "summary.json"), {"image": 1, "detect": 1, "nuclei": 2}),
    ],
)
def test_what_a_killed_job_left_missing_is_made_again_with_all_behind_it(finished, lost, made):
    """A job that is killed has lost its outputs, and what an older run made of them still lies there."""
    paths = [finished / "results" / slide / name for slide, name in zip(IDS, lost, strict=True)]
    for number, path in enumerate(paths):
        path.rename(finished / f"aside-{number}")
    try:
        planned = planned_jobs(run_snakemake(finished, "--dry-run").stdout)
    finally:
        for number, path in enumerate(paths):
            (finished / f"aside-{number}").rename(path)
    assert planned == {**made, "report": 1, "all": 1}


def test_without_kept_stores_another_model_still_reaches_the_nuclei(finished):
    shutil.copy(find_model("compact"), finished / "other.onnx")
    settings = ["--config", "model=other.onnx", "keep_stores=False"]
    run = run_snakemake(finished, "--dry-run", *settings)
    planned = planned_jobs(run.stdout)
    assert planned.get("detect") == 3, run.stdout
    assert planned["nuclei"] == 2


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (["slides=nowhere.tsv"], "nowhere.tsv: cannot be read"),
        (
            ["model=compac"],
            "model 'compac': neither a file nor a built-in model (compact, compact-fp32, compact-int8, "
            "label_free); did you mean 'compact'?",
        ),
        (["mpp=0.25"], "mpp is 0.25, but model 'compact' works at 0.5 um/px; set `mpp: 0.5`"),
    ],
)
def test_settings_are_checked_before_anything_runs(finished, settings, complaint):
    run = run_snakemake(finished, "--config", *settings)
    assert run.returncode == 1
    assert complaint in run.stdout
    assert "Traceback" not in run.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("shards", "cores"), [(1, 2), (16, 1)])
def test_any_cut_gives_the_same_bytes(first_run, slides, tmp_path, shards, cores):
    folder, _ = first_run
    make_cohort(tmp_path, slides, sheet_rows(shards=("", ""))[:1], shards=shards, keep_stores=False)
    run = run_snakemake(tmp_path, cores=cores)
    assert run.returncode == 0, run.stdout
    assert exported(tmp_path, IDS[0]) == exported(folder, IDS[0])
    assert not (tmp_path / "results" / IDS[0] / "image-500nm.zarr").exists()


@pytest.mark.slow
def test_killed_and_run_again_it_gives_the_same_bytes(first_run, slides, tmp_path):
    folder, _ = first_run
    make_cohort(tmp_path, slides, sheet_rows())
    results = tmp_path / "results"
    for landmark in ("tissue.npz", "shards"):  # killed while a slide is tiled, and while nuclei are detected
        _kill_when(lambda landmark=landmark: any((results / slide / landmark).exists() for slide in IDS), tmp_path)
    run = run_snakemake(tmp_path)
    assert run.returncode == 0, run.stdout
    assert [exported(tmp_path, slide) for slide in IDS] == [exported(folder, slide) for slide in IDS]


def _kill_when(reached, folder: Path) -> None:
    process = subprocess.Popen(
        snakemake_command(), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while not reached() and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_a_slide_that_breaks_later_keeps_no_older_result(slides, tmp_path):
    make_cohort(tmp_path, slides, sheet_rows())
    assert run_snakemake(tmp_path).returncode == 0
    victim = tmp_path / f"{IDS[0]}.tif"
    victim.unlink()
    victim.write_bytes(b"no longer a slide")
    (tmp_path / "results/cohort.h5ad").touch()
    for _ in range(2):  # the second run must not take the older result for the new one either
        assert run_snakemake(tmp_path).returncode == 1
        assert not list((tmp_path / "results" / IDS[0]).glob("nuclei*"))
        assert not (tmp_path / "results/cohort.h5ad").exists()  # it has numbers of the older result
        assert exported(tmp_path, IDS[1])
    victim.unlink()
    victim.symlink_to(slides / victim.name)
    assert run_snakemake(tmp_path).returncode == 0
    assert exported(tmp_path, IDS[0])


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"modle": "compact"}, "config: unknown setting 'modle'; did you mean 'model'?"),
        (
            {"proposals": {"method": "otsu", "strictnes": 1}},
            "muse proposer: proposals: otsu: unknown setting 'strictnes'; did you mean 'strictness'?",
        ),
        (
            {"extra_mpps": [0.25, 0.4999]},
            "config: images at 0.5 and 0.4999 um/px would both be image-500nm.zarr; leave one of them out",
        ),
        (
            {"statistics": {"group": "grade"}},
            "config: statistics: slides.tsv: has no column 'grade'; its columns are slide_id, path, shards, patient",
        ),
    ],
)
def test_a_mistake_in_the_config_is_one_sentence(tmp_path, slides, setting, sentence):
    """One of each kind; the others are in tests/cohort, and of `muse proposer` in tests/cli."""
    run = run_snakemake(make_cohort(tmp_path, slides, sheet_rows(), **setting), "--dry-run")
    assert run.returncode != 0 and not (tmp_path / "results").exists()
    (line,) = (line for line in run.stdout.splitlines() if line.startswith(("config: ", "muse ")))
    assert line == sentence and not {"schema", "Traceback"} & set(run.stdout.split())
