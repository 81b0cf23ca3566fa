"""Tissue regions in the workflow: from a region model to the columns of nuclei, and a model that fails."""

import json
import shutil

import pyarrow.parquet as pq
import pytest
from region_slides import export_drawn_model, take_to_store
from workflow_runs import planned_jobs, run_snakemake, write_config, write_sheet

pytestmark = [pytest.mark.timeout(1200), pytest.mark.slow]  # two runs of the workflow


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    take_to_store(folder)
    shutil.move(export_drawn_model(folder), folder / "tumour.onnx")
    write_sheet(folder / "slides.tsv", [{"slide_id": "drawn", "path": "drawn.tif"}])
    write_config(folder)
    return folder


def test_nuclei_have_regions_and_a_failing_model_costs_regions_only(cohort):
    run = run_snakemake(cohort, "--config", "regions=tumour.onnx")
    assert run.returncode == 0, run.stdout
    result = cohort / "results" / "drawn"
    assert json.loads((result / "regions.json").read_text())["status"] == "ok"
    table = pq.read_table(result / "nuclei.parquet").to_pandas()
    assert {"region", "region_prob", "border_distance_um"} <= set(table.columns)

    (cohort / "damaged.onnx").write_bytes(b"no model")
    run = run_snakemake(cohort, "--config", "regions=damaged.onnx")
    assert run.returncode != 0
    jobs = planned_jobs(run.stdout)
    assert "detect" not in jobs and "image" not in jobs  # a changed region model joins the shards again, and no more
    assert json.loads((result / "regions.json").read_text())["status"] == "failed"
    again = pq.read_table(result / "nuclei.parquet").to_pandas()
    assert len(again) == len(table) and again["region"].isna().all()
    assert "failed" in (cohort / "results" / "cohort.tsv").read_text()
