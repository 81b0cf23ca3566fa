"""What the jobs of a run read of its plan stays as it is until a run that may write it starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from labelled import draw_labelled_folder
from labelled import write_config as write_training_config
from test_pretrain_workflow import PRETRAIN
from workflow_runs import planned_jobs, run_snakemake, write_config, write_sheet

from muse_pipeline.config import read_settings

pytestmark = pytest.mark.timeout(300)

ROWS = [{"slide_id": "a", "path": "a.tif", "split": ""}, {"slide_id": "b", "path": "b.tif", "split": "test"}]


@pytest.fixture
def cohort(tmp_path) -> Path:
    """A folder with a sheet; its slides are none, so that whatever starts fails."""
    for row in ROWS:
        (tmp_path / row["path"]).touch()
    write_sheet(tmp_path / "slides.tsv", ROWS)
    return tmp_path


@pytest.fixture
def planned(cohort) -> Path:
    """The folder once its plan is written."""
    write_config(cohort)
    assert run_snakemake(cohort, "--dry-run").returncode == 0
    return cohort


def training_in_config(folder: Path, **settings: object) -> dict:
    """A training run and a pretraining that stand in the config."""
    training = {**read_settings(folder / "tiny.yaml"), "name": "inline", **settings}
    return {"model": training, "pretrain": {**PRETRAIN, "seed": len(settings)}}


def plans_in(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (folder / "results").rglob("*") if path.is_file()}


def test_a_dry_run_plans_with_what_is_new_and_leaves_what_jobs_read(cohort):
    write_training_config(draw_labelled_folder(cohort))
    write_config(cohort, **training_in_config(cohort))
    run = run_snakemake(cohort, "--dry-run")
    assert planned_jobs(run.stdout)["detect"] == 2, run.stdout
    before = plans_in(cohort)
    names = {"run_config.yaml", "sheet.json", "model.json", "pretraining.json", "cohort.yaml", "tissue.yaml"}
    assert {path.name for path in before} == {*names, "inline.yaml", "tiny-pretraining.yaml"}
    write_config(cohort, **training_in_config(cohort, batch=2), mode="label-free", shards=2)
    write_sheet(cohort / "slides.tsv", [{**ROWS[0], "path": "b.tif"}, ROWS[1], {**ROWS[0], "slide_id": "c"}])
    run = run_snakemake(cohort, "--dry-run")
    assert planned_jobs(run.stdout)["detect"] == 6, run.stdout
    write_config(cohort, **training_in_config(cohort, bach=2))
    assert "unknown setting 'bach'; did you mean 'batch'?" in run_snakemake(cohort, "--dry-run").stdout
    assert plans_in(cohort) == before


def test_a_path_may_begin_at_home(cohort, monkeypatch):
    monkeypatch.setenv("HOME", str(cohort))
    run_file = {"run": "~/backbone.yaml"}
    write_config(cohort, slides="~/slides.tsv", output="~/of mine", train_data="~/images", pretrain=run_file)
    run = run_snakemake(cohort, "--dry-run")
    assert f"{cohort}/backbone.yaml" in run.stdout, run.stdout  # which is not there
    assert (cohort / "of mine/sheet.json").is_file()
    assert not (cohort / "~").exists()


@pytest.mark.parametrize(
    ("locked", "sentence"),
    [("results/report.html", "LockException"), ("elsewhere", "a run that is under way reads it")],
)
def test_a_run_beside_another_leaves_what_its_jobs_read(planned, locked, sentence):
    """Snakemake refuses a run of the same files itself, and lets one of other files begin."""
    lock = planned / ".snakemake/locks/0.output.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text(f"{locked}\n", encoding="utf-8")
    before = plans_in(planned)
    write_config(planned, mode="label-free")
    run = run_snakemake(planned)
    assert (run.returncode, "Traceback" in run.stdout) == (1, False), run.stdout
    assert sentence in run.stdout
    assert plans_in(planned) == before


def test_a_lock_that_was_left_behind_can_be_lifted_and_the_plan_is_then_written(planned):
    lock = planned / ".snakemake/locks/0.output.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text("results/report.html\n", encoding="utf-8")
    write_config(planned, mode="label-free")
    assert run_snakemake(planned, "--unlock").returncode == 0
    assert not lock.exists()
    run_snakemake(planned, "--", "results/a/slide.json")  # fails, as the slide is none
    assert "mode: label-free" in (planned / "results/run_config.yaml").read_text(encoding="utf-8")


def test_a_run_without_hooks_is_refused(planned):
    run = run_snakemake(planned, "--no-hooks")
    assert (run.returncode, planned_jobs(run.stdout)) == (1, {})
    assert "--no-hooks: the jobs of a run read what it writes" in run.stdout
