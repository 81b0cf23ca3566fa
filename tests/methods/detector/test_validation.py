"""A run with validation labels: how it is scored, and which weights it saves."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from drawn_tissue import draw_labelled_tissue
from labelled import CPU, draw_labelled_folder, write_config

from experiments.common.training import finetune
from muse_pipeline.core.errors import CheckpointError, ConfigError, LabelError
from muse_pipeline.core.types import Frame
from muse_pipeline.inference.card import ColourReference
from muse_pipeline.inference.model import find_checkpoint, find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.labels.label_sources import read_labelled_images
from muse_pipeline.methods.detector import validation
from muse_pipeline.methods.detector.data import read_detector_data
from muse_pipeline.methods.detector.run import load_detector_config
from muse_pipeline.methods.detector.start import load_trained
from muse_pipeline.methods.detector.validation import SCORE, NetworkPredictor, Scorer
from muse_pipeline.models.detector import NucleusDetector
from muse_pipeline.tissue.stain import IDENTITY
from muse_pipeline.training.checkpoint import Checkpoint, load_checkpoint
from muse_pipeline.training.loop import BestWeights, MetricsLog
from muse_pipeline.training.run import Options


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A config that trains on P0 and P1 and validates on P2."""
    path = write_config(draw_labelled_folder(tmp_path_factory.mktemp("labelled")), steps=9)
    schedule = ("schedule.save_every=100", "schedule.validate_every=4")
    config = load_detector_config(path, changes=schedule)
    source = config.sources[0]
    return dataclasses.replace(
        config,
        sources=(dataclasses.replace(source, exclude=("P2",)),),
        validation=(dataclasses.replace(source, exclude=("P0", "P1")),),
    )


@pytest.fixture
def held(config):
    return read_labelled_images(config.validation, config.class_names, config.mpp, config.n_rays)


@pytest.fixture
def scorer(config):
    network = NucleusDetector(config.backbone, config.head, len(config.classes), config.n_rays)
    return Scorer(network, config, ColourReference())


def find_the_truth(monkeypatch, held, change=lambda nuclei: nuclei):
    truth = dataclasses.replace(held[0].nuclei, frame=Frame.WORK)
    monkeypatch.setattr(validation, "detect_image", lambda predictor, pixels, colour: change(truth))


def test_the_best_validation_leaves_the_run(config, tmp_path, monkeypatch):
    scripted = iter([10.0, 30.0, 20.0])
    monkeypatch.setattr(Scorer, "validate", lambda self, images: {SCORE: next(scripted)})
    trained = load_checkpoint(finetune(config, tmp_path, CPU))
    best = load_checkpoint(tmp_path / "best.pt")
    assert (trained.meta["step"], trained.meta["scores"]) == (8, {SCORE: 30.0})
    assert all(torch.equal(value, best.head[name]) for name, value in trained.head.items())
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row[SCORE]) for row in rows if SCORE in row] == [
        (3, 10.0),
        (7, 30.0),
        (8, 20.0),
    ]


def with_export(config, **changes):
    return dataclasses.replace(config, export=dataclasses.replace(config.export, **changes))


def test_what_scores_depend_on_does_not_change_before_the_best_is_chosen(
    config, tmp_path, monkeypatch
):
    monkeypatch.setattr(Scorer, "validate", lambda self, images: {SCORE: 10.0})
    schedule = dataclasses.replace(config.schedule, save_every=3)

    def stop(done, *_):
        if done == 4:
            raise KeyboardInterrupt

    config = dataclasses.replace(config, schedule=schedule)
    with pytest.raises(KeyboardInterrupt):
        finetune(config, tmp_path, Options(accelerator="cpu", progress=stop))
    scored = {
        "input_px": 128,
        "halo_px": 16,
        "capacity": 100,
        "threshold": 0.6,
        "colour_share": 0.5,
        "snap_um": 1.0,
    }
    for name, value in scored.items():
        with pytest.raises(
            CheckpointError, match=rf"different configuration \(setting 'export\.{name}' changed\)"
        ):
            finetune(with_export(config, **{name: value}), tmp_path, CPU)
    finetune(with_export(config, batch=4, precision="fp16", embedding=True), tmp_path, CPU)
    finished = finetune(with_export(config, **scored), tmp_path, CPU)
    assert load_checkpoint(finished).meta["config"]["export"]["threshold"] == 0.6


def test_a_real_network_is_scored(config, tmp_path):
    finetune(config, tmp_path, CPU)
    rows = [row for row in MetricsLog(tmp_path / "metrics.jsonl").read() if SCORE in row]
    names = {"detection", "mean class", "Dark", "Pale"}
    assert len(rows) == 3
    assert all(row.keys() == {"step", *(f"validation {name} F1" for name in names)} for row in rows)
    assert all(0 <= row[f"validation {name} F1"] <= 100 for row in rows for name in names)


def test_the_truth_scores_a_hundred_and_half_of_it_less(scorer, held, monkeypatch):
    find_the_truth(monkeypatch, held)
    assert set(scorer.validate(held).values()) == {100.0}
    find_the_truth(monkeypatch, held, lambda nuclei: nuclei[::2])
    assert scorer.validate(held)["validation detection F1"] == pytest.approx(200 / 3, abs=0.01)


def test_what_is_found_outside_the_annotated_region_does_not_count(scorer, held, monkeypatch):
    """Only the left half is annotated, but nuclei are found everywhere."""
    image = held[0]
    region = np.zeros(image.pixels.shape[:2], bool)
    region[:, :80] = True
    left = image.nuclei[image.nuclei.xy[:, 0] < 80]
    find_the_truth(monkeypatch, held)
    half = [dataclasses.replace(image, nuclei=left, region=region)]
    assert set(scorer.validate(half).values()) == {100.0}


def test_a_nucleus_at_the_border_of_the_region_may_be_found_a_little_outside(
    scorer, held, monkeypatch
):
    """As in `muse evaluate`, a detection outside the region can match a nucleus but is never a
    false positive.
    """
    image = held[0]
    x = image.nuclei.xy[len(image.nuclei) // 2, 0]
    region = np.zeros(image.pixels.shape[:2], bool)
    region[:, : int(x) + 1] = True
    inside = image.nuclei[image.nuclei.xy[:, 0] < int(x) + 1]
    find_the_truth(
        monkeypatch,
        held,
        lambda nuclei: dataclasses.replace(nuclei, xy=nuclei.xy + np.array([2.0, 0.0])),
    )
    scores = scorer.validate([dataclasses.replace(image, nuclei=inside, region=region)])
    assert scores["validation detection F1"] == 100.0


def test_only_better_ones_are_kept_and_a_resumed_run_remembers(tmp_path):
    log, path = MetricsLog(tmp_path / "m.jsonl"), tmp_path / "best.pt"
    kept, ended = [], []
    for step, score in enumerate(
        [10.0, 30.0, 30.0, 20.0], 1
    ):  # a new monitor each time, as in a resumed run
        best = BestWeights(
            SCORE, lambda score=score: {SCORE: score}, path, checkpoint_of_step, patience=2
        )
        ended.append(best.on_validate(step, log))
        kept.append(load_checkpoint(path).meta["step"])
    assert kept == [1, 2, 2, 2] and ended == [False, False, False, True]


def checkpoint_of_step(step, scores):
    return Checkpoint({"weight": torch.zeros(1)}, {}, {"step": step})


def test_a_class_without_nuclei_and_a_patient_on_both_sides_are_named(config):
    source = dataclasses.replace(config.validation[0], class_map={"1": "Dark", "2": None})
    with pytest.raises(ConfigError, match="validation images"):
        read_detector_data(dataclasses.replace(config, validation=(source,)))
    with pytest.raises(ConfigError, match="labelled nucleus"):
        read_detector_data(
            dataclasses.replace(config, sources=(dataclasses.replace(source, exclude=("P2",)),))
        )
    with pytest.raises(LabelError, match="both training"):
        read_detector_data(dataclasses.replace(config, validation=config.sources))


def test_scoring_changes_no_statistics(scorer, held):
    network = scorer.predictor.network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    scorer.validate(held)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_network_draws_outlines_as_its_exported_model_does():
    network, config, _ = load_trained(find_checkpoint("compact"))
    exported = Predictor(find_model("compact-fp32"))
    assert config.export.refine and exported.card.refine
    windows = draw_labelled_tissue((256, 256), config.mpp, seed=0).pixels[None]
    (found,), (expected,) = (
        one(windows, IDENTITY.copy()) for one in (NetworkPredictor(network, config), exported)
    )
    assert len(found) == len(expected) > 20
    assert np.allclose(found.xy, expected.xy, atol=1e-2) and np.allclose(
        found.rays, expected.rays, atol=1e-2
    )
