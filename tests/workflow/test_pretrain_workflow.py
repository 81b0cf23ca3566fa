"""Pretraining requested in the config: slides, proposals, a backbone, and a model that starts from
the backbone.
"""

import shutil
from pathlib import Path

import pytest
import yaml
from labelled import draw_labelled_folder
from labelled import write_config as write_training_config
from workflow_runs import (
    draw_stained_slide,
    inputs_of,
    planned_jobs,
    run_snakemake,
    write_config,
    write_sheet,
)

from muse_pipeline.core.files import read_json
from muse_pipeline.slides.signature import fingerprint_file
from muse_pipeline.training.checkpoint import load_checkpoint

pytestmark = pytest.mark.timeout(
    1200
)  # tests run the workflow once or twice, on a machine that may be busy

ROWS = [
    {"slide_id": "a", "path": "a.tif", "patient": "P1", "split": ""},
    {"slide_id": "b", "path": "b.tif", "patient": "P2", "split": "test"},
]
PRETRAIN = {
    "name": "tiny pretraining",
    "backbone": "muse_compact_16",
    "views": {"global_px": 64, "local_px": 32, "n_local": 1, "mpp": [0.5, 1.0]},
    "distillation": {"n_prototypes": 64, "hidden": 32, "bottleneck": 16, "momentum": 0.9},
    "batch": 2,
    "schedule": {"steps": 6, "log_every": 2},
}
RUN = "results/pretraining/tiny-pretraining"


@pytest.fixture
def cohort(tmp_path) -> Path:
    """A folder with two slides, one of which is held back, and labelled pictures with the config of
    a run on them.
    """
    for name in "ab":
        (tmp_path / f"{name}.tif").touch()
    write_sheet(tmp_path / "slides.tsv", ROWS)
    write_training_config(draw_labelled_folder(tmp_path))
    return tmp_path


def test_the_slides_become_a_backbone_beside_a_model_that_is_there(cohort):
    finer = {**PRETRAIN, "views": {**PRETRAIN["views"], "mpp": [0.25, 0.5]}}
    write_config(cohort, pretrain=finer, pretrain_store={"codec": "jpeg"})
    run = run_snakemake(cohort, "--dry-run", "--printshellcmds")
    assert run.stdout.count("--codec jpeg") == 1
    planned = planned_jobs(run.stdout)
    assert planned.get("pretrain") == 1, run.stdout
    assert (planned["image"], planned["tile"]) == (
        2,
        1,
    )  # 0.5 um/px for the model, and 0.25 um/px for the views
    assert (planned["propose"], planned["detect"]) == (2, 2)
    read = [
        f"results/a/{name}" for name in ("image-250nm.zarr", "colour.json", "proposals.parquet")
    ]
    assert inputs_of(run.stdout, "pretrain") == [f"{RUN}/cohort.yaml", *read]  # nothing of b


@pytest.mark.slow
def test_a_training_run_begins_with_it(cohort):
    """The run starts from the pretrained backbone whatever checkpoint it names itself, even if that
    does not exist.
    """
    training = cohort / "tiny.yaml"
    training.write_text(training.read_text() + "checkpoint: none.pt\n")
    (cohort / "backbone.yaml").write_text(
        yaml.safe_dump({**PRETRAIN, "sources": [{"images": "images", "mpp": 0.5}]})
    )
    settings = {"run": "backbone.yaml", "schedule": {"steps": 3}, "held_splits": []}
    write_config(cohort, model="tiny.yaml", pretrain=settings)
    run = run_snakemake(cohort, "--dry-run", "--printshellcmds")
    weights = "results/pretraining/backbone/checkpoint.pt"
    assert weights in inputs_of(run.stdout, "finetune"), run.stdout
    assert f'checkpoint="{cohort}/{weights}"' in run.stdout
    assert {"results/a/image-500nm.zarr", "results/b/image-500nm.zarr"} <= set(
        inputs_of(run.stdout, "pretrain")
    )
    assert str(cohort / "images/P0.png") in inputs_of(run.stdout, "pretrain")
    written = yaml.safe_load((cohort / "results/pretraining/backbone/cohort.yaml").read_text())
    assert [one["patient_name"] for one in written["sources"][1:]] == ["P1", "P2"]
    assert (written["schedule"]["steps"], written["schedule"]["log_every"]) == (3, 2)


@pytest.mark.slow
def test_from_slides_to_a_page_that_links_the_run(tmp_path, shared_data):
    draw_stained_slide(tmp_path / "a.tif", size_px=1000, n_nuclei=250)
    shutil.copy(shared_data / "wsi-cmu-small-region/CMU-1-Small-Region.svs", tmp_path / "b.svs")
    write_sheet(tmp_path / "slides.tsv", [ROWS[0], {**ROWS[1], "path": "b.svs"}])
    write_training_config(draw_labelled_folder(tmp_path), steps=12, threshold=0.02)
    write_config(tmp_path, pretrain=PRETRAIN, model="tiny.yaml")
    run = run_snakemake(tmp_path)
    assert run.returncode == 0, run.stdout
    folder = tmp_path / RUN
    assert load_checkpoint(folder / "checkpoint.pt").meta["patients"] == ["P1"]
    inputs = read_json(tmp_path / "results/training/tiny/provenance.json")["inputs"]
    assert inputs["weights of the checkpoint"] == fingerprint_file(folder / "checkpoint.pt")
    page = (tmp_path / "results/report.html").read_text(encoding="utf-8")
    assert 'href="pretraining/tiny-pretraining/views.png"' in page
    assert "Nothing to be done" in run_snakemake(tmp_path, "--dry-run").stdout

    of_every_slide = ("detect", "nuclei")
    write_config(tmp_path, pretrain={**PRETRAIN, "schedule": {"steps": 7}}, model="tiny.yaml")
    planned = planned_jobs(run_snakemake(tmp_path, "--dry-run").stdout)
    assert planned.keys() == {"pretrain", "finetune", "export", *of_every_slide, "report", "all"}
    write_config(tmp_path, pretrain=PRETRAIN, model="tiny.yaml")
    write_sheet(tmp_path / "slides.tsv", [ROWS[0], {**ROWS[1], "path": "b.svs", "split": ""}])
    planned = planned_jobs(run_snakemake(tmp_path, "--dry-run").stdout)
    assert planned.keys() == {"pretrain", "finetune", "export", *of_every_slide, "report", "all"}
