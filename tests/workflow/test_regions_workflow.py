"""Tissue regions in the workflow: trained on slide labels or mapped by an existing model, and when
either fails.
"""

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from drawn_regions import MPP, SLIDE_MPP, draw_slide
from region_slides import checksums
from slide_files import write_pyramid
from workflow_runs import planned_jobs, run_snakemake, write_config, write_sheet

from muse_pipeline.core.files import read_json

pytestmark = [
    pytest.mark.timeout(1200),
    pytest.mark.slow,
]  # tests run the workflow up to five times
LABELS = {"a": "Stroma", "b": "Tumour", "c": "Stroma", "d": "Tumour", "unlabelled": ""}
RUN = {
    "method": "mil",
    "name": "drawn",
    "backbone": "muse_compact_16",
    "mpp": 2,
    "classes": [{"name": name, "color": [200, 0, 0]} for name in ("Stroma", "Tumour")],
    "slide_labels": {
        "backbone": "muse_compact_16",
        "checkpoint": None,
        "folds": 2,
        "schedule": {"steps": 30, "learning_rate": 3e-3, "save_every": 30},
        "tiles_per_slide": 8,
        "least_probability": 0.5,
    },
    "window_px": 64,
    "batch": 8,
    "schedule": {"steps": 20, "learning_rate": 3e-3, "save_every": 20, "validate_every": 10},
    "student": {"rounds": 1},
    "export": {"input_px": 384, "halo_px": 64},
    "licence": "CC0-1.0",
    "training_data": "drawn slides",
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """A folder with five slides, four of them labelled, a sheet, a config, and the config of a
    training run.
    """
    folder = tmp_path_factory.mktemp("cohort")
    for seed, (name, label) in enumerate(LABELS.items()):
        tumour = np.zeros((round(500 / MPP), round(700 / MPP)), bool)
        if label != "Stroma":
            tumour[60:180, 80:260] = True
        write_pyramid(folder / f"{name}.tif", draw_slide(tumour, seed), factors=(4,), mpp=SLIDE_MPP)
    write_rows(folder, LABELS)
    write_config(folder)
    (folder / "tumour.yaml").write_text(yaml.safe_dump(RUN))
    return folder


def write_rows(folder, labels):
    rows = [
        {"slide_id": name, "path": f"{name}.tif", "patient": name, "label": labels[name]}
        for name in labels
    ]
    write_sheet(folder / "slides.tsv", rows)


def read_table(cohort, slide="unlabelled"):
    return pq.read_table(cohort / "results" / slide / "nuclei.parquet").to_pandas()


def status_of(cohort, slide="unlabelled"):
    return read_json(cohort / "results" / slide / "regions.json")["status"]


def test_labels_of_slides_become_regions_and_failures_cost_regions_only(cohort):
    run = run_snakemake(cohort, "--config", "regions=tumour.yaml")
    assert run.returncode == 0, run.stdout
    assert planned_jobs(run.stdout)["train_regions"] == 1
    assert "slides: AUC of Tumour" in run.stdout
    table = read_table(cohort)
    assert (
        set(table["region"].dropna()) <= {"Stroma", "Tumour"}
        and table["region"].notna().mean() > 0.9
    )
    assert "seconds_regions" in (cohort / "results/cohort.tsv").read_text()
    assert not planned_jobs(run_snakemake(cohort, "-n", "--config", "regions=tumour.yaml").stdout)

    write_rows(cohort, {**LABELS, "c": ""})  # now, there are fewer stroma slides than folds
    run = run_snakemake(cohort, "--config", "regions=tumour.yaml")
    assert run.returncode != 0 and "slides of Stroma come from 1 patient" in run.stdout
    assert status_of(cohort) == "ok"  # reported before any job started

    write_rows(cohort, {**LABELS, "unlabelled": "Tumour"})
    (cohort / "tumour.yaml").write_text(
        yaml.safe_dump({**RUN, "window_px": 4096})
    )  # larger than a slide
    run = run_snakemake(cohort, "--config", "regions=tumour.yaml")
    jobs = planned_jobs(run.stdout)
    assert run.returncode != 0 and "has no tile of 4096 px" in run.stdout
    assert "train_regions" in jobs and "detect" not in jobs
    assert "the training of the region model failed; see " in run.stdout
    assert status_of(cohort) == "failed" and read_table(cohort)["region"].isna().all()
    assert len(read_table(cohort)) == len(table)

    (cohort / "tumour.yaml").write_text(yaml.safe_dump(RUN))
    run = run_snakemake(cohort, "--config", "regions=tumour.yaml")  # it is trained again
    assert run.returncode == 0, run.stdout
    assert status_of(cohort) == "ok" and read_table(cohort)["region"].notna().mean() > 0.9


def test_regions_from_nuclei_are_those_of_muse_run(cohort, muse):
    write_sheet(cohort / "one.tsv", [{"slide_id": "unlabelled", "path": "unlabelled.tif"}])
    settings = ["--config", "slides=one.tsv", "output=results_of_nuclei", "regions=nuclei"]
    run = run_snakemake(cohort, *settings, "shards=2")
    assert run.returncode == 0, run.stdout
    assert planned_jobs(run.stdout)["regions"] == 1 and planned_jobs(run.stdout)["detect"] == 2
    assert not planned_jobs(run_snakemake(cohort, "-n", *settings, "shards=2").stdout)
    muse.ok(f"run {cohort / 'one.tsv'} -o {cohort / 'results_of_run'} --regions nuclei")
    one, other = (cohort / name / "unlabelled" for name in ("results_of_nuclei", "results_of_run"))
    assert checksums(one) == checksums(other)
    assert (one / "nuclei.parquet").read_bytes() == (other / "nuclei.parquet").read_bytes()
    table = pq.read_table(one / "nuclei.parquet").to_pandas()
    assert table["region"].notna().mean() > 0.9 and "Stroma" in set(table["region"])

    run = run_snakemake(cohort, *settings, "mode=label-free")
    assert (
        run.returncode != 0
        and "regions: nuclei needs classes of nuclei, but model 'label_free' has" in run.stdout
    )
    run = run_snakemake(
        cohort, "--config", "slides=one.tsv", "output=results_of_nuclei", "regions=epithelium"
    )
    assert (
        run.returncode != 0
        and "regions 'epithelium': the built-in model is withdrawn; give" in run.stdout
    )
