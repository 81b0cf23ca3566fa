"""Weights averaged with the initial ones: which labels are held out, which share is kept, and what
is reported.
"""

import dataclasses

import numpy as np
import pytest
import torch
from labelled import CPU, draw_labelled_folder, write_config

from experiments.common.training import finetune
from muse_pipeline.core.types import Frame
from muse_pipeline.labels.label_sources import read_labelled_images
from muse_pipeline.labels.labelled_image import AreaCount
from muse_pipeline.methods.detector import run as module
from muse_pipeline.methods.detector.data import read_detector_data
from muse_pipeline.methods.detector.mixing import (
    SHARES,
    choose_share,
    count_left,
    describe_falls,
    describe_kept,
    find_kept,
    follow_labels,
    mix_weights,
    split_images,
)
from muse_pipeline.methods.detector.run import load_detector_config
from muse_pipeline.methods.detector.start import load_trained, read_start
from muse_pipeline.methods.detector.validation import SUM, Scorer, class_shift
from muse_pipeline.training.checkpoint import Checkpoint, load_checkpoint, steps_done
from muse_pipeline.training.loop import MetricsLog
from muse_pipeline.training.method import Schedule
from muse_pipeline.training.run import Options


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Labelled pictures, and ``first``, a detector that was trained on them."""
    folder = draw_labelled_folder(tmp_path_factory.mktemp("mixing"))
    finetune(load_detector_config(write_config(folder, steps=20)), folder / "first", CPU)
    return folder


def configured(folder, *changes):
    start = f"checkpoint={folder / 'first/checkpoint.pt'}"
    changes = [start, "mixing={folds: 2}", "schedule.steps=2", *changes]
    return load_detector_config(folder / "tiny.yaml", changes=changes)


def images_of(config):
    return read_labelled_images(config.sources, config.class_names, config.mpp, config.n_rays)


def test_steps_and_rate_follow_the_number_of_labels():
    schedule = Schedule(steps=1500, learning_rate=2.5e-4)
    steps = [follow_labels(schedule, n).steps for n in (10, 440, 1100, 4400, 50_000)]
    assert steps == [200, 200, 275, 1100, 1500]
    few, many = (follow_labels(schedule, n) for n in (440, 11_000))
    assert few.learning_rate == pytest.approx(2.5e-4 * 0.22**0.5) and many.learning_rate == 2.5e-4
    assert follow_labels(few, 440) == few  # the settings saved with a run can be used again


def test_pictures_are_held_out_once_each(folder):
    images = images_of(configured(folder))
    parts = split_images(images, 2)
    assert [[image.name for image in held] for _, held in parts] == [["P0", "P2"], ["P1"]]
    assert all(
        {image.name for image in [*trained, *held]} == {"P0", "P1", "P2"} for trained, held in parts
    )
    assert len(split_images(images, 10)) == 3


def test_pictures_of_a_patient_stay_together_and_those_of_one_alone_do_not(folder):
    images = images_of(configured(folder))
    of_two = [
        dataclasses.replace(image, patient=name) for image, name in zip(images, "ABA", strict=True)
    ]
    assert [[image.name for image in held] for _, held in split_images(of_two, 3)] == [
        ["P0", "P2"],
        ["P1"],
    ]
    of_one = [dataclasses.replace(image, patient="A") for image in images]
    assert [[image.name for image in held] for _, held in split_images(of_one, 3)] == [
        ["P0"],
        ["P1"],
        ["P2"],
    ]


def test_a_single_picture_is_divided_into_halves(folder):
    (image,) = images_of(configured(folder))[:1]
    parts = split_images([image], 3)
    assert len(parts) == 2
    for trained, held in parts:
        assert sum(len(part.nuclei) for part in (*trained, *held)) == len(image.nuclei)
        assert (trained[0].region ^ held[0].region).all() and trained[0].annotated.all()
        column, row = trained[0].nuclei.xy.astype(int).T
        assert trained[0].region[row, column].all()


def test_weights_are_averaged():
    start, trained = (
        Checkpoint({"w": torch.tensor([v]), "n": torch.tensor(1)}, {}, {"v": v}) for v in (0.0, 4.0)
    )
    mixed = mix_weights(start, trained, 0.25)
    assert (
        mixed.backbone["w"].item() == 1.0
        and mixed.backbone["n"].item() == 1
        and mixed.meta == {"v": 4.0}
    )


CLASSES = ("Dark", "Pale")


def counts_of(*correct, n_blocks=40, n=20):
    """Counts for the start and each share; ``correct`` gives for each how many of ``n`` nuclei per
    block are right.
    """
    noise = np.random.default_rng(0).integers(-2, 3, n_blocks)
    rows = []
    for mean in correct:
        right = np.clip(mean + noise, 0, n)
        one = [np.stack([right // 2, (n - right) // 2, (n - right) // 2], 1)] * 2
        rows.append(np.stack([np.stack([right, n - right, n - right], 1), *one], 1))
    return np.array(rows, float)


@pytest.mark.parametrize(
    "correct, share",
    [
        ((10, 11, 13, 15, 17), 1.0),
        ((10, 12, 14, 13, 9), 0.5),
        ((10, 9, 8, 7, 6), 0.0),
        ((10, 10, 10, 10, 10), 0.0),
    ],
)
def test_the_share_with_the_best_held_out_scores_is_kept(correct, share):
    choice = choose_share(counts_of(*correct), CLASSES)
    assert choice["share"] == share and choice["n_blocks"] == 40
    assert [*choice["scores"]] == ["detection", "mean class", *CLASSES]


def test_a_gain_within_its_error_is_not_kept():
    counts = counts_of(10, 10, 10, 10, 10)
    gain = np.random.default_rng(1).permutation(40) % 9 - 4  # -4 to 4 nuclei per block
    counts[1:, :, 0] += gain[:, None] * [1, -1, -1]
    assert choose_share(counts, CLASSES)["share"] == 0.0


def test_no_share_may_lower_one_score_for_the_other():
    counts = counts_of(10, 10, 10, 10, 10)
    counts[1:, :, 0] += [6, -6, -6]
    counts[1:, :, 1:, 0] -= 1
    assert choose_share(counts, CLASSES)["share"] == 0.0


def test_scores_of_areas_alone_are_of_classes():
    counts = counts_of(10, 11, 13, 15, 17)
    counts[:, :, 0] = 0
    choice = choose_share(counts, CLASSES)
    assert choice["share"] == 1.0 and [*choice["scores"]] == ["mean class", *CLASSES]


def test_a_class_that_falls_is_named_and_keeps_the_initial_weights():
    """Dark gains more than Pale loses; but if labels do not judge Pale, the gain is kept."""
    counts = counts_of(10, 12, 13, 14, 14)
    counts[1:, :, 1] += [4, -4, -4]
    counts[1:, :, 2] -= [3, -3, -3]
    assert choose_share(counts, CLASSES)["share"] == 0.0
    choice = choose_share(counts, CLASSES, kept=[1])
    assert choice["share"] == 0.75 and choice["scores"]["Pale"]["difference"] < -5


def test_classes_that_fall_are_named():
    (sentence,) = describe_falls({"Dark": 2.0, "Pale": -4.54, "Other": -0.4}, "held-out labels")
    assert sentence == "warning: F1 on held-out labels falls: Pale -4.5"
    assert describe_falls({"Dark": 2.0}, "held-out labels") == []


def with_classes(images, *labels):
    """The images with ``labels`` of their nuclei: numbers of those of classes 0 and 1."""
    return [
        dataclasses.replace(
            image,
            nuclei=dataclasses.replace(image.nuclei[: sum(of)], label=np.repeat([0, 1], of)),
        )
        for image, of in zip(images, labels, strict=True)
    ]


@pytest.mark.parametrize(
    "labels, kept",
    [
        (((18, 18), (18, 18), (18, 18)), []),
        (((18, 18), (36, 0), (36, 0)), [0, 1]),  # one class is learnt in contrast to another
        (((18, 9), (18, 9), (18, 9)), [0, 1]),
    ],
)
def test_few_labels_or_those_of_one_picture_do_not_change_a_class(folder, labels, kept):
    images = with_classes(images_of(configured(folder)), *labels)
    left = count_left(split_images(images, 3), 2)
    assert find_kept(left) == kept
    assert find_kept(np.array([400, 19, 20])) == [1]
    assert find_kept(np.array([5])) == []  # a single class always has the probability 1
    sentence = describe_kept([1], np.array([400, 19, 20]), ("A", "B", "C"))
    assert sentence.startswith("classes kept as in the initial weights: B (19); label more")


def test_blocks_add_up_to_their_picture(folder, monkeypatch):
    config = configured(folder)
    network, _, _ = load_trained(config.checkpoint)
    start, image = read_start(config), images_of(config)[0]
    scorer = Scorer(network, config, start.colour)
    truth = dataclasses.replace(image.nuclei[::2], frame=Frame.WORK)
    monkeypatch.setattr(scorer, "find", lambda image: truth)
    blocks = scorer.count_blocks(image)
    assert len(blocks) == 4 and (blocks.sum(0) == scorer.total([image]).values).all()


def test_blocks_of_areas_count_classes(folder, monkeypatch):
    config = configured(folder)
    start, image = read_start(config), images_of(config)[0]
    nuclei = dataclasses.replace(image.nuclei, prob=np.eye(2, dtype=np.float32)[image.nuclei.label])
    image = dataclasses.replace(image, nuclei=nuclei, areas=(AreaCount("Dark", "a", len(nuclei)),))
    scorer = Scorer(load_trained(start.path)[0], config, start.colour)
    wrong = dataclasses.replace(nuclei, frame=Frame.WORK, label=1 - nuclei.label)
    for found, column in ((dataclasses.replace(wrong, label=nuclei.label), 0), (wrong, 2)):
        monkeypatch.setattr(scorer, "find", lambda image, found=found: found)
        counts = scorer.count_blocks(image).sum(0)
        assert (
            counts[1:, column].tolist() == np.bincount(nuclei.label).tolist()
            and not counts[0].any()
        )
    halves = split_images([image], 2)
    assert all(held[0].areas and not trained[0].unannotated.any() for trained, held in halves)


def test_class_shares_of_few_labels_are_not_learnt(folder):
    """If the start finds both classes but labels have only one, that class's logit gets a positive
    term in training.
    """
    config = configured(folder)
    data = read_detector_data(config, start := read_start(config))
    scorer = Scorer(load_trained(start.path)[0], config, start.colour)
    whole = class_shift(data.images, scorer)
    dark = [
        dataclasses.replace(one, nuclei=one.nuclei[one.nuclei.label == 0]) for one in data.images
    ]
    shift = class_shift(dark, scorer)
    assert whole.abs().max() < 0.35 and shift[0] > 0.1 and shift[1] < -0.4


def run(config, folder):
    output = []
    path = finetune(config, folder, Options(accelerator="cpu", log=output.append))
    return load_checkpoint(path), output


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_run_keeps_the_share_that_was_chosen(folder, tmp_path, monkeypatch, share):
    counted = []

    def choose(counts, *given):
        counted.append(counts)
        return {**choose_share(counts, *given), "share": share}

    monkeypatch.setattr(module, "choose_share", choose)
    config = configured(folder)
    checkpoint, output = run(config, tmp_path)
    assert counted[0].shape[0] == 1 + len(SHARES) and counted[0].shape[2:] == (3, 3)
    start = load_checkpoint(config.checkpoint)
    same = all(torch.equal(value, start.head[name]) for name, value in checkpoint.head.items())
    assert same == (share == 0.0) and checkpoint.meta["mixing"]["share"] == share
    first = (
        "not enough labels: initial weights are kept"
        if not share
        else "50% of the change by training is kept"
    )
    assert any(line.startswith(first) for line in output)
    scores = (tmp_path / "scores.txt").read_text(encoding="utf-8").splitlines()
    assert scores[0].startswith(first) and set(scores) <= set(output)
    assert sorted(path.name for path in (tmp_path / "stages").iterdir()) == [
        "1-held-out",
        "2-held-out",
    ]
    if share:
        again, _ = run(
            load_detector_config(tmp_path / "config.yaml"), tmp_path
        )  # the finished run is not repeated
        assert all(torch.equal(value, again.head[name]) for name, value in checkpoint.head.items())


def test_with_validation_nothing_else_is_held_out(folder, tmp_path):
    config = configured(folder, "sources.0.exclude=[P2]")
    held = dataclasses.replace(config.sources[0], exclude=("P0", "P1"))
    _, output = run(dataclasses.replace(config, validation=(held,)), tmp_path)
    assert not (tmp_path / "stages").exists() and any(
        "validation labels" in line for line in output
    )


def test_the_last_training_ends_where_held_out_scores_no_longer_rise(folder, tmp_path, monkeypatch):
    """The first part's end after 5 of 8 steps, the second's after all; the last training takes
    their median.
    """
    scores = iter([*(5, 6, 9, 8, 9), *range(8)])
    monkeypatch.setattr(Scorer, "sum_up", lambda scorer, images: {SUM: next(scores)})
    monkeypatch.setattr(
        module, "choose_share", lambda *given: {**choose_share(*given), "share": 0.5}
    )
    checkpoint, output = run(configured(folder, "schedule.steps=8"), tmp_path)
    logs = (
        MetricsLog(tmp_path / name / "metrics.jsonl")
        for name in ("stages/1-held-out", "stages/2-held-out", ".")
    )
    steps = [log.read()[-1]["step"] + 1 for log in logs]
    assert steps == [5, 8, round(8 * (5 / 8 + 1) / 2)] and checkpoint.meta["step"] == steps[-1]
    assert checkpoint.meta["config"]["schedule"]["curve"] == 8
    assert sum(line.startswith("F1 on labels held out so far: detection ") for line in output) == 2
    assert f"training 3 of 3, with all labels, for {steps[-1]} steps" in output
    for config in (
        load_detector_config(tmp_path / "config.yaml"),
        configured(folder, "schedule.steps=8"),
    ):
        run(config, tmp_path)  # scores nothing, because the run is finished
    (tmp_path / "stages/1-held-out/checkpoint.pt").unlink()  # as if it had been killed before
    again, _ = run(configured(folder, "schedule.steps=8"), tmp_path)
    assert again.weights_sha256() == checkpoint.weights_sha256()


def test_a_run_that_keeps_the_initial_weights_trains_no_further(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(
        module, "choose_share", lambda *given: {**choose_share(*given), "share": 0.0}
    )
    _, output = run(configured(folder, "schedule.steps=8"), tmp_path)
    assert steps_done(tmp_path / "resume.pt") == 1 and not any(
        "with all labels" in line for line in output
    )


@pytest.mark.parametrize("change", ["checkpoint=null", "n_rays=16"])
def test_without_a_start_of_the_same_classes_nothing_is_averaged(folder, tmp_path, change):
    checkpoint, output = run(configured(folder, change), tmp_path)
    assert "mixing: skipped, `checkpoint` is not a detector with the run's head" in output[0]
    assert "mixing" not in checkpoint.meta and not (tmp_path / "stages").exists()
