"""From patches sorted by class to an exported region model; also what each round of the student
starts from.
"""

import csv
import dataclasses
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from drawn_patches import CONFIG, draw_patches
from every_setting import (
    APPEARANCE,
    CARD,
    NAMES,
    REPORTS,
    SCHEDULE,
    Kind,
    keep_untrained,
    parts_of_step,
)

from experiments.mil_rungs import run as rungs
from muse_pipeline.cli.main import main
from muse_pipeline.core.files import read_json
from muse_pipeline.export.region_models import load_region_model
from muse_pipeline.inference.card import DICE, DICE_OF_PAINTING, painting_warnings
from muse_pipeline.inference.predictor import RegionPredictor
from muse_pipeline.inference.stains import colour_of_fit
from muse_pipeline.methods.mil.config import StudentSettings
from muse_pipeline.methods.mil.data import AUC, dice_of_painting, read_region_data
from muse_pipeline.methods.mil.method import (
    EXPONENT,
    StudentTraining,
    TeacherTraining,
    fusion_dice,
    weighted_cross_entropy,
)
from muse_pipeline.methods.mil.tissue import (
    UNKNOWN,
    TissueImage,
    TissueSource,
    read_tissue_images,
)
from muse_pipeline.methods.mil.windows import RegionBatch, RegionWindows
from muse_pipeline.models.region import RegionNetwork
from muse_pipeline.training.checkpoint import load_checkpoint, save_checkpoint
from muse_pipeline.training.recipe import load_run

CLASSES = ("Stroma", "Tumour")
COLOUR = torch.eye(3, 4)


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    return draw_patches(tmp_path_factory.mktemp("patches"))


@pytest.fixture(scope="module")
def run(patches):
    """The folder of a finished run in which student and teacher are exchanged before the second
    round.
    """
    assert main(train_arguments(patches, patches / "run")) == 0
    return patches / "run"


def train_arguments(patches, folder, *changes):
    settings = [word for change in changes for word in ("--set", change)]
    return [
        *f"train {patches / 'mil.yaml'} -o {folder} --accelerator cpu --threads 1".split(),
        *settings,
    ]


def stage_config(patches, stage, *changes):
    recipe, config = load_run(patches / "mil.yaml", changes=changes)
    return recipe.stages(config, patches / "unused")[stage].config


def same_weights(network, state):
    return all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_patches_become_a_region_model(run):
    assert sorted(path.name for path in (run / "stages").iterdir()) == ["1-teacher", "2-student"]
    last = run / "stages/2-student/checkpoint.pt"
    assert (run / "checkpoint.pt").read_bytes() == last.read_bytes()
    network, card = load_region_model(run / "checkpoint.pt")
    assert [one.name for one in card.classes] == list(CLASSES)
    assert AUC in card.metrics and DICE not in card.metrics
    with torch.no_grad():
        maps = network(torch.full((1, 3, 192, 192), 200.0), COLOUR)
    assert maps.fused.shape == (1, 1, 48, 48)


@pytest.mark.slow
def test_the_region_model_is_exported(run, muse, tmp_path):
    assert "checked against torch" in muse.ok(
        f"export {run / 'checkpoint.pt'} -o {tmp_path / 'm.onnx'}"
    )
    predictor = RegionPredictor(tmp_path / "m.onnx")
    assert predictor(
        np.full((1, 192, 192, 3), 200, np.uint8), np.eye(3, 4, dtype=np.float32)
    ).shape == (1, 2, 48, 48)


def test_validation_keeps_the_best_weights(run):
    meta = load_checkpoint(run / "checkpoint.pt").meta
    rows = (run / "stages/2-student/metrics.jsonl").read_text().splitlines()
    assert meta["scores"][AUC] == max(row[AUC] for row in map(json.loads, rows) if AUC in row)


@pytest.mark.parametrize("stage", [0, 1])
def test_averaged_weights_are_scored_and_leave_the_run(run, patches, tmp_path, stage):
    """Each of three steps adds 1 to all weights; the expected average is computed by hand."""
    recipe, config = load_run(patches / "mil.yaml")
    stage = recipe.stages(config, tmp_path)[stage]
    if stage.config.previous is not None:
        shutil.copytree(run / "stages/1-teacher", tmp_path / "stages/1-teacher")
    data = stage.read(print)
    method = stage.build(data).train()
    begun = {name: value.clone() for name, value in method.network.named_parameters()}
    average = 0.0
    for n in (1, 2, 3):
        with torch.no_grad():
            torch._foreach_add_([*method.network.parameters()], 1.0)
        method.after_step(n / 3)
        average += (n - average) * 9 / (10 + n)
    left, (monitor,) = method.trained(), stage.monitors(data, method)
    for name, value in left.named_parameters():
        torch.testing.assert_close(value, begun[name] + average, rtol=1e-5, atol=1e-5)
    assert not left.training and monitor.score.__self__.network is left
    save_checkpoint(monitor.path, monitor.describe(3, {}))
    saved = stage.checkpoint(data, method)
    assert same_weights(left.backbone, saved.backbone) and same_weights(left.sides, saved.head)
    last = stage.checkpoint(dataclasses.replace(data, held=[]), method)
    assert same_weights(left.backbone, last.backbone) and same_weights(left.sides, last.head)


def test_rounds_are_one_stage(patches):
    recipe, config = load_run(patches / "mil.yaml", changes=["student.rounds=3"])
    teacher, student = recipe.stages(config, patches)
    assert (student.name, student.config.schedule.steps) == (
        "student",
        3 * teacher.config.schedule.steps,
    )


def make_batch(label):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(1, 3, 64, 64, generator=generator) * 255
    target = torch.full((1, 1, 16, 16), float(label))
    return RegionBatch(
        pixels, COLOUR[None], torch.tensor([[float(label)]]), target, torch.ones(1, 1, 16, 16)
    )


@pytest.mark.parametrize("weighted", [True, False])
def test_gradients_of_a_student_are_those_of_its_formula(weighted):
    """The batch has a positive and a negative image; the teacher has no gradients."""
    torch.manual_seed(0)
    student, teacher = (RegionNetwork("muse_compact_16", 2).double().eval() for _ in range(2))
    settings = StudentSettings(distillation=0.7, cross_entropy=1.3, weighted=weighted)
    method = StudentTraining(student, teacher, settings)
    batch = RegionBatch(
        *(torch.cat(pair).double() for pair in zip(make_batch(1), make_batch(0), strict=True))
    )
    found = method.losses(batch, "model", 0.0)["loss"]
    maps, expected = student(batch.pixels, batch.colour), 0.0
    fused = teacher(batch.pixels, batch.colour).fused.detach()[:1]
    for b, target in enumerate((fused, torch.zeros_like(fused))):
        known, sides = batch.known[b : b + 1], [side[b : b + 1] for side in maps.sides]
        mean = 0.3 * sides[0] + 0.3 * sides[1] + 0.4 * sides[2]
        cross_entropy = weighted_cross_entropy(mean, (target >= 0.5).double(), known, weighted)
        expected = (
            expected + (0.7 * fusion_dice((*sides, mean), target, known) + 1.3 * cross_entropy) / 2
        )
    parameters = [*student.parameters()]
    gradients = (
        torch.autograd.grad(one, parameters, allow_unused=True) for one in (found, expected)
    )
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
    assert all(one.requires_grad is False for one in method.teacher.parameters())


def test_a_label_of_an_image_is_not_one_of_its_pixels():
    """The loss of generalised means of images with a label does not include the cross-entropy of
    their pixels.
    """
    torch.manual_seed(0)
    network = RegionNetwork("muse_compact_16", 2).eval()
    method, expected = TeacherTraining(network, "gm"), 0.0
    batch = RegionBatch(*map(torch.cat, zip(make_batch(1), make_batch(0), strict=True)))
    for b, label in enumerate((1, 0)):
        maps = network(batch.pixels[b : b + 1], batch.colour[b : b + 1])
        for probability in (*maps.sides, maps.fused):
            mean = (probability.double() ** EXPONENT).mean() ** (1 / EXPONENT)
            expected = expected - (mean if label else 1 - mean).log() / 2
    method.eval()
    loss = method.losses(batch, "model", 0.0)["loss"]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_validation_maps_a_picture_in_the_colours_of_training(patches):
    """With windows as large as the picture, the map is the network's output for the picture in mean
    stains.
    """
    data = read_region_data(stage_config(patches, 0, "colour=macenko"))
    torch.manual_seed(0)
    scorer = data.make_scorer(RegionNetwork("muse_compact_16", 2).eval())
    for image, found in zip(data.held[:2], scorer.maps(), strict=False):
        pixels = torch.from_numpy(image.pixels).permute(2, 0, 1)[None].float()
        colour = torch.from_numpy(colour_of_fit(data.reference, image.stain))
        assert image.stain is not None and not torch.allclose(colour, COLOUR, atol=0.01)
        assert np.allclose(found, scorer.network(pixels, colour).fused[0].detach(), atol=1e-5)


def test_masks_are_scored(patches, tmp_path, muse):
    masks = ["student.rounds=0", "validation.0.masks=masks"]
    status, _, errors = muse(*train_arguments(patches, tmp_path / "run", *masks))
    assert status == 0, errors
    meta = load_checkpoint(tmp_path / "run/checkpoint.pt").meta
    _, card = load_region_model(tmp_path / "run/checkpoint.pt")
    assert card.metrics[DICE_OF_PAINTING] == meta["scores"][DICE_OF_PAINTING]
    is_doubted = meta["scores"][DICE] <= meta["scores"][DICE_OF_PAINTING]
    assert ("is not better than painting everything" in errors) == is_doubted


@pytest.mark.parametrize("own, warns", [(0.7, False), (0.6, True), (None, False)])
def test_a_model_that_is_not_better_than_painting_everything_is_warned_of(own, warns):
    metrics = {DICE_OF_PAINTING: 0.63} | ({} if own is None else {DICE: own})
    found = painting_warnings("tumour", metrics)
    assert ["(Dice 0.600 and 0.630 on its validation images)" in each for each in found] == (
        [True] if warns else []
    )


def test_everything_is_painted_in_the_class_that_fits_best():
    """Of 12 cells with known tissue, 3 are A and 6 are B: painting B is right in 6, wrong in 6 and
    misses 3.
    """
    mask = np.array([[1, 1, 1, 0], [2, 2, 2, 0], [2, 2, 2, 0], [UNKNOWN] * 4], np.uint8)
    image = TissueImage(
        name="a", pixels=np.zeros((16, 16, 3)), label=-1, mask=mask.repeat(4, 0).repeat(4, 1)
    )
    assert dice_of_painting([np.zeros((2, 4, 4))], [image]) == pytest.approx(
        2 * 6 / (2 * 6 + 3 + 3 + 3)
    )


@pytest.mark.parametrize("dialect", [{}, {"delimiter": ";"}, {"delimiter": "\t"}])
def test_a_table_labels_pictures_and_names_patients(patches, tmp_path, dialect):
    images = patches / "training/Tumour"
    names = sorted(path.name for path in images.iterdir())
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file, **dialect).writerows(
            [["image", "label", "patient"], [names[0], "t", "P1"], [names[1][:-4], "n", "P2"]]
        )
    source = TissueSource(
        images=images,
        table=tmp_path / "labels.csv",
        mpp=1.0,
        class_map={"t": "Tumour", "n": "Stroma"},
    )
    found = read_tissue_images([source], CLASSES, 2.0, 32)
    assert [(one.label, one.patient, one.pixels.shape) for one in found] == [
        (1, "P1", (32, 32, 3)),
        (0, "P2", (32, 32, 3)),
    ]


def test_windows_of_labelled_pixels_know_nothing_elsewhere(patches):
    image = read_tissue_images(
        [TissueSource(folders=patches / "training", mpp=2.0)], CLASSES, 2.0, 64
    )[0]
    target = np.full((64, 64), UNKNOWN, np.uint8)
    target[:32], target[32:, :32] = 1, 0
    image = dataclasses.replace(image, label=-1, target=target)
    config = stage_config(patches, 0)
    augmentation = dataclasses.replace(config.augmentation, scale=1.0, free_rotation=0.0)
    settings = SimpleNamespace(mpp=2.0, window_px=64, batch=4, augmentation=augmentation, seed=0)
    windows = RegionWindows(
        [image], np.eye(3, 4)[None], np.eye(3)[:2], 2, settings, torch.device("cpu")
    )
    batch = windows(0)
    assert (batch.label == -1).all()
    assert batch.known.mean().item() == 0.75 and batch.target.mean().item() == 0.5
    assert (batch.target <= batch.known).all()


def test_the_workflow_learns_what_a_run_reads(patches, muse, tmp_path):
    status, out, _ = muse(f"step model {patches / 'mil.yaml'} --resolved {tmp_path / 'm.json'}")
    assert (status, out) == (0, "drawn: 2 um/px; Stroma, Tumour\n")
    found = read_json(tmp_path / "m.json")
    pictures = [
        str(path)
        for split in ("training", "validation")
        for path in sorted((patches / split).rglob("*.png"))
    ]
    assert (found["kind"], found["inputs"], found["slides"]) == ("regions", pictures, {})
    assert "nowhere: no such file or folder; correct `folders`" in muse.fails(
        f"step model {patches / 'mil.yaml'} --set sources.0.folders=nowhere"
    )


def test_several_classes_have_a_map_each(patches, tmp_path):
    images = [
        dataclasses.replace(one, label=index)
        for index, one in enumerate(
            read_tissue_images(
                [TissueSource(folders=patches / "training", mpp=2.0)], CLASSES, 2.0, 64
            )[:3]
        )
    ]
    config = stage_config(patches, 0)
    settings = SimpleNamespace(
        mpp=2.0, window_px=64, batch=12, augmentation=config.augmentation, seed=0
    )
    colours = np.eye(3, 4)[None].repeat(3, 0)
    windows = RegionWindows(images, colours, np.eye(3)[:2], 3, settings, torch.device("cpu"))
    batch = windows(0)
    assert {tuple(row) for row in batch.label.tolist()} == {(0, 0), (1, 0), (0, 1)}
    assert torch.equal(batch.target.amax((2, 3)), batch.label) and batch.known.all()
    method = TeacherTraining(RegionNetwork("muse_compact_16", 3), "dice")
    assert method.losses(batch, "model", 0.0)["loss"].isfinite()


@pytest.mark.slow
@pytest.mark.timeout(1200)  # two minutes on an idle core
def test_a_student_maps_better_than_its_teacher(tmp_path):
    data = rungs.draw_data(tmp_path / "data", 0)
    scores = [rungs.run_arm(arm, 0, data, tmp_path) for arm in ("teacher", "weighted")]
    teacher, student = (float(rungs.f1(np.sum(score["counts"], 0))) for score in scores)
    assert student >= teacher + 3 and rungs.max_fall(scores[1]["curve"]) <= 2


def teacher_and_student(stages, read):
    """The parts of a teacher step and of a student step in a run of MIL whose teacher is already
    trained.
    """
    yield "stages", torch.tensor(len(stages))
    yield from parts_of_step(stages[0], read)
    yield from parts_of_step(stages[1], read)


SETTINGS = Kind(
    {
        **yaml.safe_load(CONFIG),
        "colour": "macenko",
        "schedule": SCHEDULE,
        "student": {"rounds": 2, "schedule": {**SCHEDULE, "steps": 90}},
    },
    teacher_and_student,
    "schedule student fusion",
    {
        **APPEARANCE,
        "colour": "identity",
        "mpp": 1.6,
        "sources.0.mpp": 2.5,
        "student.weighted": False,
        "teacher": "gm",
        "window_px": 48,
        **{
            f"fusion.{k}": {"fusion": tuple(0.2 if k == one else 0.4 for one in range(3))}
            for k in range(3)
        },
    },
    {
        **CARD,
        **NAMES,
        "validation": "scores alone: tests/methods/mil/test_mil.py",
        **{f"student.{name}": reason for name, reason in REPORTS.items()},
    },
)


@pytest.fixture(scope="module")
def with_teacher(tmp_path_factory):
    """A folder of patches, and an untrained teacher for the student."""
    folder = draw_patches(tmp_path_factory.mktemp("with-teacher"))
    recipe, config = SETTINGS.load(folder)
    keep_untrained(recipe.stages(dataclasses.replace(config, validation=()), folder)[0])
    return folder


@pytest.mark.parametrize("name", SETTINGS.names)
def test_every_setting_acts(with_teacher, name):
    found = SETTINGS.difference(name, with_teacher)
    assert found is not None and (name != "colour" or found.startswith("batch"))
