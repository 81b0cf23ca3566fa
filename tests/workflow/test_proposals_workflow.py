"""Label-free mode with proposals, as a user runs it: from a slide to GeoJSON with a single class,
and a report.
"""

import gzip
import json

import pytest
from workflow_runs import (
    draw_one_slide,
    inputs_of,
    planned_jobs,
    run_snakemake,
    write_config,
    write_sheet,
)

from muse_pipeline.nuclei.parquet import read_nuclei, read_provenance
from muse_pipeline.training.checkpoint import load_checkpoint

pytestmark = pytest.mark.timeout(1200)

UNIT = """
method: unit
name: tiny
schedule: { steps: 3, learning_rate: 0.001 }
second: { steps: 3, learning_rate: 0.001 }
window_px: 64
batch: 4
n_masks: 20
mask_px: 96
discriminator_rate: 0.4
weights: { painted: [10, 3] }
generator: { base: 8, most: 16, levels: 4, noise_dim: 8, style_dim: 8, code_dim: 8,
             mapping_layers: 2, dropout: 0 }
reader: { backbone: muse_compact_16, n_rays: 8, widths: [16, 8] }
pictures: { widths: [8, 16], loss: least squares }
mask_discriminator: { widths: [8, 16] }
calibrate: false
export: { input_px: 192, capacity: 200, threshold: 0.01 }
licence: CC0-1.0
training_data: drawn tissue
"""


def test_a_missing_file_of_another_programs_nuclei_costs_its_slide_alone(tmp_path):
    for name in ("a.tif", "b.tif", "b.csv"):
        (tmp_path / name).touch()
    write_sheet(
        tmp_path / "slides.tsv", [{"slide_id": name, "path": f"{name}.tif"} for name in "ab"]
    )
    write_config(tmp_path, proposals={"method": "imported", "file": "{slide}.csv"})
    run = run_snakemake(tmp_path, "--dry-run")
    assert planned_jobs(run.stdout).get("propose") == 2, (
        run.stdout
    )  # the job of slide a reports the missing file
    run = run_snakemake(
        tmp_path, "--dry-run", "--printshellcmds", "--", "results/b/proposals/1-of-1.parquet"
    )
    assert "b.csv" in inputs_of(run.stdout, "propose")


@pytest.fixture
def translated(tmp_path):
    """A folder with a slide, and the config of a short run of `method: unit` without sources, which
    trains on it.
    """
    draw_one_slide(tmp_path, size_px=600, n_nuclei=120)
    (tmp_path / "tiny.yaml").write_text(UNIT)
    return tmp_path


@pytest.mark.slow
def test_label_free_mode_trains_exports_and_detects(translated):
    write_config(translated, mode="label-free", model="tiny.yaml")
    run = run_snakemake(translated)
    assert run.returncode == 0, run.stdout
    card = read_provenance(translated / "results/a/nuclei.parquet").card
    assert card["name"] == "tiny" and [one["name"] for one in card["classes"]] == ["Nucleus"]
    assert len(read_nuclei(translated / "results/a/nuclei.parquet")) > 0
    assert load_checkpoint(translated / "results/training/tiny/checkpoint.pt").meta["images"] == [
        "a"
    ]


@pytest.mark.slow
def test_label_free_mode_ends_in_geojson_and_a_report(tmp_path):
    draw_one_slide(tmp_path, size_px=1000, n_nuclei=250)
    proposals = {"method": "haematoxylin", "min_distance_um": 3.5}
    write_config(tmp_path, mode="label-free", proposals=proposals, shards=2)
    run = run_snakemake(tmp_path)
    assert run.returncode == 0, run.stdout
    slide = tmp_path / "results/a"
    for name in ("nuclei", "proposals"):
        with gzip.open(slide / f"{name}.geojson.gz") as file:
            features = json.load(file)["features"]
        assert len(features) == len(read_nuclei(slide / f"{name}.parquet")) > 100
        assert {each["properties"]["classification"]["name"] for each in features} == {"Nucleus"}
    assert read_provenance(slide / "nuclei.parquet").card["name"] == "label_free"
    output = read_provenance(slide / "proposals.parquet").proposer
    assert (output["method"], output["settings"]["min_distance_um"]) == ("haematoxylin", 3.5)
    write_config(
        tmp_path, mode="label-free", proposals={**proposals, "min_distnce_um": 4}, shards=2
    )
    wrong = run_snakemake(tmp_path)
    assert (
        wrong.returncode
        and "did you mean 'min_distance_um'" in wrong.stdout
        and "rule " not in wrong.stdout
    )
