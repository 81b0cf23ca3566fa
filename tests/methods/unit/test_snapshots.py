"""The choice of a snapshot without labels."""

import cv2
import numpy as np
import pytest
import torch
from test_unit import draw_tissue, train
from tiny_runs import write_unit as write_config

from muse_pipeline.inference.stains import reference_stains
from muse_pipeline.methods.unit.config import THRESHOLD
from muse_pipeline.methods.unit.data import read_unit_data
from muse_pipeline.methods.unit.method import UnitTraining
from muse_pipeline.methods.unit.monitors import (
    MEASURE,
    RENDERED,
    STABLE,
    STAINED,
    Detections,
    SnapshotScorer,
    detection_f1,
)
from muse_pipeline.methods.unit.synthesis_folder import write_mask_folder
from muse_pipeline.methods.unit.synthesis_masks import TissueSettings
from muse_pipeline.training.checkpoint import Checkpoint, load_checkpoint
from muse_pipeline.training.loop import BestWeights, MetricsLog
from muse_pipeline.training.recipe import load_run

MPP = 0.5


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    """A scorer with random weights; the tests replace its detections."""
    folder = draw_tissue(tmp_path_factory.mktemp("snapshots"))
    write_mask_folder(folder / "masks", 4, TissueSettings(), seed=0, mpp=MPP, size_px=96)
    _, config = load_run(write_config(folder, masks=str(folder / "masks")))
    data = read_unit_data(config, config.masks)
    method = UnitTraining(config, data.palette, reference_stains(data.reference))
    return SnapshotScorer(method, data.make_batches(config, torch.device("cpu")), config)


def answers(*of_calls):
    """A replacement for ``_detect`` that uses one function each for mirrored, rendered and real
    windows, in turn.
    """
    calls = []

    def detect(pixels, colour):
        number, kind = divmod(len(calls), 3)
        calls.append(kind)
        return of_calls[kind](number, len(pixels))

    return detect


def nothing(number, n):
    return [Detections(np.zeros((0, 2)), np.zeros(0))] * n


def at(*xy):
    return lambda number, n: [Detections(np.array([xy], float), np.ones(1))] * n


def test_f1_counts_matches_within_3_um():
    truth = [np.array([[10.0, 10.0], [30.0, 30.0]])]
    assert detection_f1([np.array([[15.0, 10.0]])], truth, MPP) == pytest.approx(2 / 3)
    assert detection_f1([np.array([[17.0, 10.0]])], truth, MPP) == 0
    assert detection_f1([np.zeros((0, 2))], [np.zeros((0, 2))], MPP) == 0


def test_a_reader_that_finds_nothing_scores_0(scorer, monkeypatch):
    monkeypatch.setattr(scorer, "_detect", answers(nothing, nothing, nothing))
    assert scorer.score().items() >= {RENDERED: 0, STABLE: 0, STAINED: 0, MEASURE: 0}.items()
    assert scorer.method.training


def test_nuclei_that_stay_in_place_when_the_picture_is_mirrored_are_not_the_same(
    scorer, monkeypatch
):
    monkeypatch.setattr(scorer, "_detect", answers(at(8, 8), nothing, at(8, 8)))
    assert scorer.score()[STABLE] == 0
    monkeypatch.setattr(scorer, "_detect", answers(at(56, 8), nothing, at(8, 8)))
    assert scorer.score()[STABLE] == 1


def test_nuclei_of_the_masks_score_1_on_rendered_tissue(scorer, monkeypatch):
    def of_masks(number, n):
        inside = [xy[((xy >= 0) & (xy < 64)).all(1)].numpy() for xy in scorer._batches[number].xy]
        return [Detections(xy, np.ones(len(xy))) for xy in inside]

    monkeypatch.setattr(scorer, "_detect", answers(nothing, of_masks, nothing))
    assert scorer.score().items() >= {RENDERED: 1, STABLE: 0, STAINED: 0, MEASURE: 0}.items()


def test_the_threshold_is_that_of_the_best_agreement_with_haematoxylin(scorer, monkeypatch):
    def certain_in_dark_places(number, n):
        dark = scorer._stained[number * n : (number + 1) * n]
        return [
            Detections(np.concatenate((xy, xy + 30)), np.repeat([0.5, 0.3], len(xy))) for xy in dark
        ]

    monkeypatch.setattr(scorer, "_detect", answers(nothing, nothing, certain_in_dark_places))
    found = scorer.score()
    assert found[STAINED] == 1 and 0.3 < found[THRESHOLD] <= 0.5
    monkeypatch.setattr(scorer, "thresholds", (0.2,))  # a configured threshold
    monkeypatch.setattr(scorer, "_detect", answers(nothing, nothing, certain_in_dark_places))
    found = scorer.score()
    assert found[STAINED] < 0.8 and found[THRESHOLD] == 0.2


def test_agreement_with_haematoxylin_is_measured_on_the_drawn_nuclei(scorer):
    windows = torch.cat([batch.pictures for batch in scorer._batches])
    assert len(windows) == len(scorer._stained) and sum(map(len, scorer._stained)) > 50
    for window, xy in zip(windows.numpy(), scorer._stained, strict=True):
        red = cv2.blur(window[0], (3, 3))
        assert all(red[int(y), int(x)] < red.mean() for x, y in xy)


def test_the_best_snapshot_is_kept_and_of_equal_ones_the_later(tmp_path):
    values, kept = iter([0.2, 0.5, 0.4, 0.5, 0.3]), []

    def score():
        return {MEASURE: next(values)}

    def describe(step, scores):
        kept.append(step)
        return Checkpoint({}, {}, {})

    choice = BestWeights(MEASURE, score, tmp_path / "best.pt", describe, keeps_later=True)
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for step in range(1, 6):
        choice.on_validate(step, log)
    assert kept == [1, 2, 4]
    assert [row[MEASURE] for row in log.read()] == [0.2, 0.5, 0.4, 0.5, 0.3]


def test_the_best_snapshot_leaves_the_run(tmp_path, muse, monkeypatch):
    values = iter([0.5, 0.9, 0.1, 0.3, 0.2, 0.1])
    monkeypatch.setattr(
        SnapshotScorer, "score", lambda self: {MEASURE: next(values), THRESHOLD: 0.35}
    )
    config = write_config(
        draw_tissue(tmp_path), schedule={"steps": 3, "validate_every": 1, "learning_rate": 0.001}
    )
    status, _, printed = muse(train(config, tmp_path / "run"))
    assert status == 0, printed
    assert "translation: weights of step 2 (measure 0.90, threshold 0.35)" in printed
    stages = tmp_path / "run/stages"
    first, last = (
        load_checkpoint(stages / name / "checkpoint.pt").meta
        for name in ("2-translation", "3-reader")
    )
    assert first["step"] == 2 and first["scores"][MEASURE] == 0.9
    assert last["step"] == 1 and last["scores"][MEASURE] == 0.3
    assert last["config"]["export"]["threshold"] == 0.35
