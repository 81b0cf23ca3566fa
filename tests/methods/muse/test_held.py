"""During training, the teacher is scored on held-back labelled nuclei, which does not change the
training.
"""

import dataclasses

import numpy as np
import pytest
import torch
from labelled import CPU, draw_labelled_folder
from pretraining import draw_pictures

from experiments.common.training import load_muse_config, pretrain
from muse_pipeline.labels.picture_source import PictureSource
from muse_pipeline.methods.muse.validation import SCORE, accuracy_of_others, read_held
from muse_pipeline.training.checkpoint import load_checkpoint
from muse_pipeline.training.loop import MetricsLog

MAP = {"1": "Dark", "2": "Pale"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """``tiny.yaml`` on pictures P0 to P2, and labelled pictures Q0 to Q2."""
    folder = tmp_path_factory.mktemp("held")
    draw_pictures(folder, schedule={"validate_every": 4})
    draw_labelled_folder(folder / "held")
    for path in sorted((folder / "held").glob("*/P*")):
        path.rename(path.with_name(f"Q{path.name[1:]}"))
    return folder


@pytest.fixture
def source(folder):
    return PictureSource(
        folder / "held/labels",
        "row column class",
        images=folder / "held/images",
        mpp=0.5,
        class_map=MAP,
    )


@pytest.fixture(scope="module")
def runs(folder):
    """Two folders of the same run, first without and then with held-back pictures."""
    config = load_muse_config(folder / "tiny.yaml")
    source = PictureSource(
        folder / "held/labels",
        "row column class",
        images=folder / "held/images",
        mpp=0.5,
        class_map=MAP,
    )
    pretrain(config, folder / "plain", CPU)
    pretrain(dataclasses.replace(config, held=(source,)), folder / "scored", CPU)
    return folder / "plain", folder / "scored"


def test_a_run_is_scored_when_validation_is_due_and_at_its_end(runs):
    scores = {
        row["step"]: row[SCORE]
        for row in MetricsLog(runs[1] / "metrics.jsonl").read()
        if SCORE in row
    }
    assert list(scores) == [3, 5]
    best = max(scores, key=scores.get)
    kept = load_checkpoint(runs[1] / "best.pt")
    assert (kept.meta["kind"], kept.meta["step"], kept.meta[SCORE]) == (
        "backbone",
        best + 1,
        scores[best],
    )
    assert kept.seen.patients == {"P0", "P1", "P2", "Q0", "Q1", "Q2"}
    assert kept.seen.learnt_patients == {"P0", "P1", "P2"}
    assert not (runs[0] / "best.pt").exists()


def test_a_score_changes_no_weight(runs):
    plain, scored = (load_checkpoint(run / "checkpoint.pt") for run in runs)
    assert all(torch.equal(plain.backbone[name], scored.backbone[name]) for name in plain.backbone)
    assert "Q0" not in scored.seen.patients


def test_a_run_may_begin_with_the_best_teacher_and_be_scored_on_the_same_patients(
    folder, runs, source
):
    config = load_muse_config(folder / "tiny.yaml")
    config = dataclasses.replace(config, held=(source,), checkpoint=runs[1] / "best.pt")
    pretrain(config, folder / "again", CPU)
    assert (folder / "again/best.pt").is_file()


def test_neighbours_are_of_other_patients():
    """If the same features mean opposite classes in two patients, every neighbour has the wrong
    class.
    """
    label, patient = torch.arange(80) % 2, np.repeat(["P", "Q"], 40)
    assert accuracy_of_others(torch.eye(2)[label], label, patient) == 100
    swapped = torch.eye(2)[(label + torch.from_numpy(patient == "Q")) % 2]
    assert accuracy_of_others(swapped, label, patient) == 0


@pytest.mark.parametrize(
    "change", [{"class_map": {}}, {"class_map": {"1": "Dark", "2": None}}, {"patient": 1}]
)
def test_without_classes_or_patients_there_is_no_score(source, change):
    assert read_held([dataclasses.replace(source, **change)], 0.5) == []
