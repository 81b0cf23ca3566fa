"""Labelled nuclei that are held back score the teacher during its training, and change nothing of it."""

import dataclasses

import numpy as np
import pytest
import torch
from labelled import CPU, draw_labelled_folder
from pretraining import draw_pictures

from muse_pipeline.core.errors import LabelError
from muse_pipeline.labels.sources import LabelSource
from muse_pipeline.methods.muse.run import load_muse_config, pretrain
from muse_pipeline.methods.muse.validation import SCORE, accuracy_of_others, read_held
from muse_pipeline.training.checkpoint import load_checkpoint
from muse_pipeline.training.log import MetricsLog

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
    return LabelSource(folder / "held/labels", "row column class", folder / "held/images", mpp=0.5, class_map=MAP)


@pytest.fixture(scope="module")
def runs(folder):
    """Folders of the same run without and with held pictures."""
    config = load_muse_config(folder / "tiny.yaml")
    source = LabelSource(folder / "held/labels", "row column class", folder / "held/images", mpp=0.5, class_map=MAP)
    pretrain(config, folder / "plain", CPU)
    pretrain(dataclasses.replace(config, held=(source,)), folder / "scored", CPU)
    return folder / "plain", folder / "scored"


def test_a_run_is_scored_when_validation_is_due_and_at_its_end(runs):
    scores = {row["step"]: row[SCORE] for row in MetricsLog(runs[1] / "metrics.jsonl").read() if SCORE in row}
    assert list(scores) == [3, 5]
    for step, score in scores.items():
        meta = load_checkpoint(runs[1] / "teachers" / f"{step + 1}.pt").meta
        assert (meta["step"], meta["kind"]) == (step + 1, "backbone")
        assert meta[SCORE] == pytest.approx(score, abs=0.01)
    assert not (runs[0] / "teachers").exists()


def test_a_score_changes_no_weight(runs):
    plain, scored = (load_checkpoint(run / "checkpoint.pt").backbone for run in runs)
    last = load_checkpoint(runs[1] / "teachers/6.pt").backbone
    assert all(torch.equal(plain[name], scored[name]) and torch.equal(plain[name], last[name]) for name in plain)


def test_neighbours_are_of_other_patients():
    """Features that mean one class in one patient and the other class in the other one are wrong everywhere."""
    label, patient = torch.arange(80) % 2, np.repeat(["P", "Q"], 40)
    assert accuracy_of_others(torch.eye(2)[label], label, patient) == 100
    swapped = torch.eye(2)[(label + torch.from_numpy(patient == "Q")) % 2]
    assert accuracy_of_others(swapped, label, patient) == 0


@pytest.mark.parametrize("change", [{"class_map": {}}, {"class_map": {"1": "Dark", "2": None}}, {"patient": 1}])
def test_without_classes_or_patients_there_is_no_score(source, change):
    assert read_held([dataclasses.replace(source, **change)], 0.5) == []


def test_a_class_that_is_not_in_the_map_is_named(source):
    with pytest.raises(LabelError, match="'2'"):
        read_held([dataclasses.replace(source, class_map={"1": "Dark", "3": "Pale"})], 0.5)
