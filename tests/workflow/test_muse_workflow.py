"""A training run as the config's ``model``: the workflow trains and exports the model, and detects
nuclei with it.
"""

import gzip
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from labelled import draw_labelled_folder
from labelled import write_config as write_training_config
from official_fixtures import make_teacher, needs_fixtures
from qupath_check import check_geojson
from workflow_runs import draw_stained_slide, planned_jobs, run_snakemake, write_config, write_sheet

from muse_pipeline.nuclei.parquet import read_provenance

pytestmark = pytest.mark.timeout(
    1200
)  # tests run the workflow once or twice, on a machine that may be busy


@pytest.fixture
def cohort(tmp_path) -> Path:
    """A folder with a slide, labelled pictures, and the config of a training run on these
    pictures.
    """
    draw_stained_slide(tmp_path / "slide.tif", size_px=600, n_nuclei=60)
    write_sheet(tmp_path / "slides.tsv", [{"slide_id": "s", "path": "slide.tif"}])
    write_training_config(draw_labelled_folder(tmp_path))
    return tmp_path


def test_a_run_named_by_its_file_is_trained_exported_and_used(cohort):
    write_config(cohort, model="tiny.yaml")
    run = run_snakemake(
        cohort, "--dry-run", "--printshellcmds", "--set-resources", "finetune:gpu=2"
    )
    assert "muse finetune tiny.yaml --accelerator cuda --devices 2 " in " ".join(
        run.stdout.replace("\\", "").split()
    )
    planned = planned_jobs(run.stdout)
    assert {name: planned[name] for name in ("finetune", "export", "detect")} == dict.fromkeys(
        ("finetune", "export", "detect"), 1
    ), run.stdout
    # inputs of the job, which runs again if one changes
    read = {name for k in range(3) for name in (f"P{k}.png", f"P{k}_points.txt")}
    assert all(name in run.stdout for name in read)
    assert "results/training/tiny/model.onnx" in run.stdout


@pytest.mark.slow
def test_a_training_run_that_fails_is_what_is_reported(cohort):
    write_config(cohort, model="tiny.yaml")
    for labels in cohort.rglob("P*_points.txt"):
        labels.write_text("no point\n")
    run = run_snakemake(cohort)
    log = "results/training/tiny/logs/finetune.log"
    output = (cohort / log).read_text().splitlines()[-1]
    assert output.startswith("muse finetune: ") and run.returncode == 1
    assert f"\nfinetune-tiny failed: {output}; see {log}\n" in run.stdout
    reason = "the model was not made; see results/training/tiny/logs"
    assert run.stdout.splitlines()[-2:] == [reason, "1 slide: 1 failed; see results/report.html"]
    _, slide = (cohort / "results/cohort.tsv").read_text().splitlines()
    assert reason in slide
    assert "killed" not in (cohort / "results/report.html").read_text()


@pytest.mark.slow
def test_a_run_may_stand_in_the_config(cohort):
    training = yaml.safe_load((cohort / "tiny.yaml").read_text())
    write_config(cohort, model={**training, "name": "my run"})
    run = run_snakemake(cohort, "--dry-run")
    assert planned_jobs(run.stdout)["finetune"] == 1, run.stdout
    written = yaml.safe_load((cohort / "results/training/my-run.yaml").read_text())
    assert written == {**training, "name": "my run"}


ROI_PX = (1000, 1200, 1360, 1560)  # tissue of CMU-1-Small-Region, in level-0 px


@pytest.fixture
def real_cohort(tmp_path, shared_data) -> Path:
    """A crop of a real slide, three labelled patches, and a ViT-S in the layout of the released
    files.
    """
    shutil.copy(shared_data / "wsi-cmu-small-region/CMU-1-Small-Region.svs", tmp_path / "slide.svs")
    left, top, right, bottom = ROI_PX
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    area = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {},
    }
    (tmp_path / "roi.geojson").write_text(
        json.dumps({"type": "FeatureCollection", "features": [area]})
    )
    write_sheet(
        tmp_path / "slides.tsv", [{"slide_id": "cmu", "path": "slide.svs", "roi": "roi.geojson"}]
    )
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
        for path in sorted((shared_data / "brca-m2c" / kind).glob("TCGA-A7-A0D*"))[:3]:
            (tmp_path / kind / path.name).write_bytes(
                path.read_bytes()
            )  # a copy would be read-only
    torch.save({"teacher": make_teacher("vit_s_16_224")}, tmp_path / "vit_s_16-224.pth")
    names = ("Lymphocyte", "Epithelial", "Stroma")
    training = {
        "name": "muse_vit_s",
        "backbone": "muse_vit_s_16_224",
        "checkpoint": "vit_s_16-224.pth",
        "mpp": 0.5,
        "window_px": 224,
        "colour": "identity",
        "classes": [
            {"name": name, "color": [90 * k, 0, 0]}
            for k, name in enumerate(["Lymphocyte", "Epithelial", "Stroma"])
        ],
        "sources": [
            {
                "images": "images",
                "labels": "labels",
                "format": "row column class",
                "mpp": 0.5,
                "class_map": dict(zip("123", names, strict=True)),
            }
        ],
        "batch": 2,
        "backbone_rate": 0.1,
        "schedule": {"steps": 4, "log_every": 1},
        "export": {"threshold": 0.02, "capacity": 300, "embedding": True},
        "licence": "CC0-1.0",
        "training_data": "three patches of BRCA-M2C, for four steps",
    }
    (tmp_path / "muse_vit_s.yaml").write_text(yaml.safe_dump(training))
    write_config(tmp_path, model="muse_vit_s.yaml")
    return tmp_path


@pytest.mark.slow
@needs_fixtures
def test_a_released_vit_goes_from_its_file_to_qupath_by_snakemake_alone(real_cohort, muse):
    run = run_snakemake(real_cohort)
    assert run.returncode == 0, run.stdout
    results = real_cohort / "results"
    assert "checked against torch" in (results / "training/muse_vit_s/logs/export.log").read_text()
    geojson = results / "cmu/nuclei.geojson.gz"
    assert check_geojson(geojson).is_good
    assert (
        len(json.loads(gzip.decompress(geojson.read_bytes()))["features"]) > 20
    )  # after a training of four steps
    card = read_provenance(results / "cmu/nuclei.parquet").card
    assert (card["source"]["backbone"], card["input_px"], card["embedding_dim"]) == (
        "muse_vit_s_16_224",
        224,
        384,
    )
    assert (card["readout"], card["colour"]["method"]) == ("x/S*(S/4-1)", "identity")

    assert "Nothing to be done" in run_snakemake(real_cohort, "--dry-run").stdout
    label = next((real_cohort / "labels").iterdir())
    label.write_text("".join(label.read_text().splitlines(keepends=True)[:-1]))
    planned = planned_jobs(run_snakemake(real_cohort, "--dry-run").stdout)
    assert {"finetune", "export", "detect", "nuclei"} <= planned.keys()
