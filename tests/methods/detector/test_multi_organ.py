"""The recipe for the open datasets, from synthetic files of all five datasets to a model with a
card.
"""

from dataclasses import replace
from pathlib import Path

import pytest
from drawn_datasets import draw_datasets

from muse_pipeline.core.files import read_json, read_tsv
from muse_pipeline.inference.model import read_card
from muse_pipeline.methods.detector.run import DetectorRecipe, load_detector_config
from muse_pipeline.training.checkpoint import load_checkpoint

RECIPE = Path(__file__).parents[3] / "config/train/multi_organ.yaml"
SMALL = (
    "backbone=muse_compact_16",
    "n_rays=8",
    "window_px=64",
    "batch=2",
    "precision=32-true",
    "schedule.steps=6",
    "schedule.validate_every=6",
    "export.input_px=128",
    "export.capacity=500",
    "export.threshold=0.01",  # scores are low after so few steps
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_datasets(tmp_path_factory.mktemp("datasets"))


def train(data, folder, *changes):
    options = f"--output {folder} --accelerator cpu --threads 1".split()
    return f"finetune {RECIPE} --data {data}", *options, "--set", *SMALL, *changes


@pytest.mark.slow
def test_from_downloads_to_a_model_and_its_card(muse, data, tmp_path):
    run, model = tmp_path / "run", tmp_path / "multi_organ.onnx"
    words = train(data, run, "schedule.steps=12", "schedule.validate_every=12")
    status, _, errors = muse(*words)
    assert status == 0, errors
    rows = read_tsv(run / "labels-training.tsv")
    counts = {
        name: sum(int(row[name]) for row in rows)
        for name in ("Lymphocyte", "Epithelial", "Stroma", "unknown")
    }
    assert counts == {
        "Lymphocyte": 2 + 4 + 4,
        "Epithelial": 6 + 2 + 4 + 3,
        "Stroma": 2 + 2 + 2,
        "unknown": 22,
    }
    meta = load_checkpoint(run / "checkpoint.pt").meta
    assert {"PanNuke fold1", "Lizard fold2", "TCGA-AB-0001", "NuInsSeg mouse lung"} <= set(
        meta["learnt_patients"]
    )
    assert not {"PanNuke fold3", "Lizard fold3", "TCGA-AB-0002"} & set(meta["learnt_patients"])
    inputs = read_json(run / "provenance.json")["inputs"]
    assert {f"source 0: labels/Fold {fold}/masks/fold{fold}/masks.npy" for fold in (1, 2)} <= set(
        inputs
    )
    assert "validation mean class F1" in (run / "metrics.jsonl").read_text()

    muse.ok(f"export {run / 'checkpoint.pt'} --output {model}")
    card = read_card(model)
    assert card.licence == "CC-BY-NC-SA-4.0"
    licences = card.training_data.split("Licences: ")[1]
    assert licences.startswith(
        "pannuke CC BY-NC-SA 4.0, lizard CC BY-NC-SA 4.0, puma CC0 1.0, ocelot CC BY-NC 4.0, nu"
    )
    assert "non-commercial" in card.limits


def test_the_files_of_a_run_are_those_of_its_pictures(data):
    inputs = DetectorRecipe().describe(load_detector_config(RECIPE, data))["inputs"]
    names = [str(Path(path).relative_to(data)) for path in inputs]
    assert "ocelot/ocelot2023_v1.0.1/metadata.json" in names
    assert "lizard/Lizard_Images1/consep_1.png" in names
    assert not [
        name for name in names if "Overlay" in name or "/test/" in name or "pannuke_4" in name
    ]


def test_a_dataset_that_is_not_there_ends_the_run_before_it_begins(muse, tmp_path):
    assert "pannuke: no such folder" in muse.fails(*train(tmp_path, tmp_path / "run"))
    assert not (tmp_path / "run/checkpoint.pt").exists()


def test_a_patient_of_both_sides_is_found(muse, data, tmp_path):
    errors = muse.fails(*train(data, tmp_path / "run", "sources.0.exclude=[]"))
    assert "patients in both training and validation: PanNuke fold3" in errors


def test_sources_without_a_licence_leave_the_card_as_it_is_written():
    config = load_detector_config(RECIPE)
    assert config.credits.startswith(f"{config.training_data} Licences: pannuke CC BY-NC-SA 4.0, ")
    bare = replace(config, sources=tuple(replace(source, licence="") for source in config.sources))
    assert bare.credits == config.training_data


def test_folders_of_one_name_keep_their_licences():
    config = load_detector_config(RECIPE)
    labels = [
        replace(config.sources[0], labels=Path(site) / "labels", licence=site)
        for site in ("A", "B", "B")
    ]
    assert replace(config, sources=tuple(labels)).credits.endswith(" Licences: labels A, labels B.")
