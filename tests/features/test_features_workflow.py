"""Features in the workflow: the tables of `muse run`, files for scverse, and groups of patients compared."""

import csv
import json

import pyarrow.parquet as pq
import pytest
from workflow_runs import draw_stained_slide, planned_jobs, run_snakemake, write_config, write_sheet

from muse_pipeline import read_cohort
from muse_pipeline.cli.main import main

SLIDES = {"s1": ("P1", "benign"), "s2": ("P2", "benign"), "s3": ("P3", "malignant"), "s4": ("P4", "malignant")}
SETTINGS = {"spatialdata": True, "statistics": {"group": "label"}, "measurements": ["h_mean", "texture_asm"]}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    for number, name in enumerate(SLIDES):
        draw_stained_slide(folder / f"{name}.tif", 700, 120 + 60 * (number > 1), seed=number)
    rows = [
        {"slide_id": name, "path": f"{name}.tif", "mpp": 0.5, "patient": patient, "label": label}
        for name, (patient, label) in SLIDES.items()
    ]
    write_sheet(folder / "slides.tsv", rows)
    return folder


@pytest.mark.timeout(600)
def test_settings_that_contradict_are_one_sentence(cohort):
    write_config(cohort, **SETTINGS, keep_stores=False)
    run = run_snakemake(cohort, "--dry-run")
    assert run.returncode != 0
    assert "spatialdata links to the images, which keep_stores: false deletes" in run.stdout


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_workflow_gives_the_tables_of_muse_run_and_compares_the_groups(cohort):
    write_config(cohort, **SETTINGS)
    run = run_snakemake(cohort)
    assert run.returncode == 0, run.stdout
    results = cohort / "results"
    assert main(["run", str(cohort / "slides.tsv"), "-o", str(cohort / "by_run"), "--features", "all"]) == 0
    for name in SLIDES:
        table = results / name / "nuclei.parquet"
        assert table.read_bytes() == (cohort / "by_run" / name / "nuclei.parquet").read_bytes()
        assert (results / name / "slide.spatialdata.zarr/tables/table/zarr.json").is_file()
        assert pq.read_metadata(table).num_rows > 20
    said = json.loads((results / "s1/nuclei.provenance.json").read_text())
    assert {"h_mean", "texture_asm"} <= set(said["measurements"])
    with (results / "statistics.tsv").open(encoding="utf-8", newline="") as file:
        rows = {row["measure"]: row for row in csv.DictReader(file, dialect="excel-tab")}
    density = rows["nuclei_per_mm2"]
    assert (density["first"], density["second"], density["n_first"]) == ("benign", "malignant", "2")
    assert float(density["mean_second"]) > float(density["mean_first"])
    assert (results / "report.html").read_text(encoding="utf-8").count('<td class="group"><bdi>benign') == 2
    counts = read_cohort(results).to_table(["patient"]).to_pandas()["patient"].value_counts()
    assert set(counts.index) == {"P1", "P2", "P3", "P4"}

    write_config(cohort, **{**SETTINGS, "spatialdata": False, "features": "basic"})
    jobs = planned_jobs(run_snakemake(cohort, "--dry-run").stdout)
    assert jobs["nuclei"] == 4 and "detect" not in jobs and "image" not in jobs
