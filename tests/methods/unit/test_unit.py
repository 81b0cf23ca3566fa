"""`method: unit`: both stages, resuming, the resulting detector, alarms, and mistakes in settings
and data.
"""

import copy
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from drawn_ihc import draw_ihc
from every_setting import CARD, SCHEDULE, STEP, Kind, parts_of_step, tensors_in
from tiny_runs import UNIT as CONFIG
from tiny_runs import write_unit as write_config
from torch.nn.functional import softplus

from muse_pipeline.core.errors import CollapsedError
from muse_pipeline.data.augment import LabelledBatch
from muse_pipeline.export.onnx import load_detector
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.labels.label_sources import parse_source
from muse_pipeline.methods.unit import method, monitors
from muse_pipeline.methods.unit.config import LossWeights
from muse_pipeline.methods.unit.data import UnitBatch, read_masks, read_unit_data
from muse_pipeline.methods.unit.run import UnitStage
from muse_pipeline.methods.unit.synthesis_folder import read_mask_folder, write_mask_folder
from muse_pipeline.methods.unit.synthesis_masks import TissueSettings, synthesise_mask
from muse_pipeline.tissue.stain import ROUNDED_TEXTBOOK
from muse_pipeline.training.checkpoint import load_checkpoint
from muse_pipeline.training.method import Schedule
from muse_pipeline.training.recipe import load_run, train_run
from muse_pipeline.training.run import Options

HAEMATOXYLIN, EOSIN = np.array([0.65, 0.70, 0.29]), np.array([0.10, 0.75, 0.35])


def draw_tissue(folder: Path, n: int = 3, side_px: int = 160) -> Path:
    """Write pictures of nuclei in one shade of haematoxylin on a background in one shade of
    eosin.
    """
    (folder / "images").mkdir(parents=True)
    for index in range(n):
        inside = synthesise_mask(index, 7, side_px, 0.5, TissueSettings()).instances[..., None] > 0
        pixels = 255 * np.exp(-(0.1 + 0.7 * inside) * HAEMATOXYLIN - 0.4 * EOSIN)
        noise = np.random.default_rng(index).normal(0, 4, pixels.shape)
        cv2.imwrite(str(folder / f"images/P{index}.png"), (pixels + noise).clip(0, 255)[..., ::-1])
    return folder


def train(config, folder):
    return f"train {config} -o {folder} --accelerator cpu --threads 1"


@pytest.fixture(scope="module")
def tissue(tmp_path_factory):
    return draw_tissue(tmp_path_factory.mktemp("unit"))


@pytest.fixture(scope="module")
def run_folder(tissue):
    """The folder of a complete run."""
    recipe, config = load_run(write_config(tissue))
    train_run(recipe, config, tissue / "run", Options(accelerator="cpu"))
    return tissue / "run"


def test_gauges_are_logged_and_pictures_drawn_at_every_save(run_folder):
    stage = run_folder / "stages/2-translation"
    rows = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "generator loss" in row]
    assert len(rows) == 4
    assert {"generator diversity_of_noise", "generator agreement", "generator contrast"} <= rows[
        0
    ].keys()
    assert {"generator cycle", "discriminator real_score", "discriminator rendered_score"} <= rows[
        0
    ].keys()
    drawn = sorted(path.name for path in (stage / "translation").iterdir())
    assert drawn == ["step-000002.png", "step-000004.png"]
    assert cv2.imread(str(stage / "translation" / drawn[0])).shape == (6 * 70 + 6, 2 * 70 + 6, 3)


def test_the_second_stage_keeps_the_generator_and_begins_a_reader(tissue, tmp_path):
    recipe, config = load_run(
        write_config(tissue),
        changes=["second.steps=1", "second.learning_rate=1.0e-9", "schedule.steps=2"],
    )
    last = load_checkpoint(train_run(recipe, config, tmp_path / "run", Options(accelerator="cpu")))
    first = load_checkpoint(tmp_path / "run/stages/2-translation/checkpoint.pt")
    assert first.networks.keys() == {"generator", "discriminator", "translation"}
    for name in ("generator", "discriminator"):
        for key, value in first.networks[name].items():
            assert torch.allclose(value, last.networks[name][key], atol=1e-7), key
    kernels = [key for key, value in first.backbone.items() if value.ndim == 4]
    assert all((first.backbone[key] - last.backbone[key]).abs().max() > 1e-3 for key in kernels)


def test_the_run_leaves_a_detector(run_folder):
    graph, card = load_detector(run_folder / "checkpoint.pt")
    assert [one.name for one in card.classes] == ["Nucleus"]
    with torch.no_grad():
        found = graph(torch.full((1, 3, 192, 192), 230, dtype=torch.uint8), torch.eye(3, 4))
    assert found[0].shape == (1, card.capacity, 2)
    assert list((run_folder / "pictures").glob("*.png"))  # with which an export is checked
    meta = load_checkpoint(run_folder / "checkpoint.pt").meta
    assert meta["images"] == meta["learnt_patients"] == ["P0", "P1", "P2"]


@pytest.mark.slow
def test_the_detector_is_exported(run_folder, tmp_path, muse):
    status, out, errors = muse(f"export {run_folder / 'checkpoint.pt'} -o {tmp_path / 'unit.onnx'}")
    assert status == 0, errors
    assert "not checked" not in out + errors  # the pictures that the run kept were used
    predictor = Predictor(tmp_path / "unit.onnx")
    assert (
        len(predictor(np.full((1, 192, 192, 3), 230, np.uint8), np.eye(3, 4, dtype=np.float32)))
        == 1
    )


def test_rendered_pictures_and_the_checkpoint_start_a_finetuning(run_folder, tmp_path, muse):
    command = (
        f"synthesize pictures --generator {run_folder / 'checkpoint.pt'} --n 2 --size-px 128 -o"
    ).split()
    for name in ("rendered", "again"):
        muse.ok(*command, tmp_path / name)
    files = sorted(
        path.relative_to(tmp_path / "rendered") for path in (tmp_path / "rendered").rglob("*.*")
    )
    assert len(files) == 8
    assert all(
        (tmp_path / "rendered" / one).read_bytes() == (tmp_path / "again" / one).read_bytes()
        for one in files
    )
    source = {
        "images": "rendered/images",
        "labels": "rendered/instances",
        "points": "rendered/points",
        "mpp": 0.5,
    }
    source |= {"format": "instances", "class_map": {"Epithelial": "Nucleus", "Stroma": "Nucleus"}}
    config = {
        "method": "detector",
        "name": "tuned",
        "backbone": "muse_compact_16",
        "checkpoint": str(run_folder / "checkpoint.pt"),
        "mpp": 0.5,
        "classes": [{"name": "Nucleus", "color": [128, 64, 192]}],
        "sources": [source],
        "schedule": {"steps": 1},
        "n_rays": 8,
        "window_px": 64,
        "batch": 2,
        "colour": "identity",
        "licence": "CC0-1.0",
        "training_data": "rendered tissue",
    }
    parse_source(source, "source")
    (tmp_path / "tuned.yaml").write_text(yaml.safe_dump(config))
    status, _, printed = muse(train(tmp_path / "tuned.yaml", tmp_path / "tuned"))
    assert status == 0 and "checkpoint.pt, backbone and head" in printed, printed


def test_a_collapsed_run_saves_no_checkpoint_and_names_a_remedy(
    tissue, tmp_path, muse, monkeypatch
):
    build = UnitStage.build

    def collapsed(stage, data):
        made = build(stage, data)
        torch.nn.init.zeros_(made.generator.to_rgb.weight)  # the same grey for all masks
        made.generator.to_rgb.requires_grad_(False)
        return made

    monkeypatch.setattr(UnitStage, "build", collapsed)
    command = train(write_config(tissue), tmp_path / "run")
    errors = muse.fails(f"{command} --set schedule.steps=9")
    assert "collapsed by step 6: diversity of noise is 0, below 0.02 at 5 logged steps" in errors
    assert "lower `weights.cycle`" in errors
    assert not list((tmp_path / "run").rglob("checkpoint.pt"))


def test_the_alarm_waits_for_a_fifth_of_the_stage_and_for_five_low_values():
    alarm = monitors.TranslationAlarm(Schedule(100), Path("run"))
    low, high = {"generator agreement": 0.0}, {"generator agreement": 0.5}
    for done in (*range(20), 20, 21, 22, 23):
        alarm.on_log(done, low)
    alarm.on_log(24, high)
    for done in range(25, 29):
        alarm.on_log(done, low)
    with pytest.raises(CollapsedError, match="masks predicted"):
        alarm.on_log(29, low)


def test_agreement_is_0_where_everything_is_read_as_nuclei(tissue):
    _, config = load_run(write_config(tissue))
    training = method.UnitTraining(config, np.zeros((2, 3), np.float32), np.array(ROUNDED_TEXTBOOK))
    torch.nn.init.constant_(training.reader.translation.layers[-1].bias, 100.0)
    torch.manual_seed(0)
    assert training._agreement(torch.rand(2, 3, 64, 64) * 255) == 0


def test_the_colour_prior_falls_in_the_first_stage_alone(tissue):
    _, config = load_run(write_config(tissue))
    training = method.UnitTraining(config, np.zeros((2, 3), np.float32), np.array(ROUNDED_TEXTBOOK))
    assert config.weights == LossWeights(painted=(10, 3))
    found = [training._weights(progress)["painted"] for progress in (0, 0.125, 0.25, 1)]
    assert found == [10, 6.5, 3, 3]
    training.prior_falls = False
    assert training._weights(0)["painted"] == 3


AS_IT_IS = {
    "stain_gain": 0,
    "stain_mix": 0,
    "shift": 0,
    "blur": 0,
    "noise": 0,
}  # appearance is not varied
SAME = torch.eye(3, 4).expand(2, 3, 4)
WEIGHTS = {"picture_gan": 1.3, "mask_gan": 0.7, "cycle": 3.0, "instances": 2.5}
# name -> losses of the generator (from scores of generated data) and of the discriminator (from all
# scores)
JUDGED = {
    "logistic": (
        lambda made: softplus(-made).mean(),
        lambda real, made: (softplus(-real) + softplus(made)).mean(),
    ),
    "least squares": (
        lambda made: ((made - 1) ** 2).mean() / 2,
        lambda real, made: ((real - 1) ** 2 + made**2).mean() / 2,
    ),
}


def to_unit(pixels):
    return pixels / 127.5 - 1


def make_training(folder, losses):
    """A method without dropout or varied appearance, a batch, and a list to which its noises are
    appended.
    """
    generator = yaml.safe_load(CONFIG)["generator"] | {"dropout": 0.0}
    names = {"pictures": losses[0], "mask_discriminator": losses[1]}
    judges = {
        name: {"widths": [8, 16], "loss": loss, "r1_gamma": 0.8, "r1_every": 2}
        for name, loss in names.items()
    }
    weights = {**WEIGHTS, "painted": [2, 1]}
    changes = {
        "generator": generator,
        "augmentation": AS_IT_IS,
        "weights": weights,
        **judges,
    }
    _, config = load_run(write_config(folder, **changes))
    torch.manual_seed(0)
    palette = np.array([[90, 60, 130], [230, 190, 210]], np.float32)
    training = method.UnitTraining(config, palette, np.array(ROUNDED_TEXTBOOK)).train()
    masks, pictures = torch.rand(2, 3, 64, 64) * 2 - 1, torch.rand(2, 3, 64, 64) * 255
    masks[..., 24:] = -1
    xy, label = (
        torch.tensor([[[20.0, 20], [41, 30]], [[9, 50], [-1e6, -1e6]]]),
        torch.tensor([[0, 0], [0, -1]]),
    )
    batch, drawn, draw = (
        UnitBatch(masks, xy, torch.full((2, 2, 8), 3.0), label, pictures),
        [],
        training.draw_noise,
    )
    training.draw_noise = lambda *sizes: drawn.append(draw(*sizes)) or drawn[-1]
    return training, batch, drawn


@pytest.mark.parametrize("losses", [("logistic", "least squares"), ("least squares", "logistic")])
def test_a_step_of_generator_and_reader_is_that_of_the_formula(tmp_path, losses):
    """The test compares terms, sum, gradients, and the reader's norm statistics, which come from
    real tissue only.
    """
    training, batch, drawn = make_training(tmp_path, losses)
    literal = copy.deepcopy(training)
    found = training.losses(
        batch, "generator", 0.125
    )  # halfway down: the colour prior has weight 1.5
    generator, reader = literal.generator, literal.reader
    rendered = generator(batch.masks, *drawn[0])
    mask_again, nuclei = reader(rendered.clamp(0, 255), SAME)
    labels = LabelledBatch(None, None, batch.xy, batch.label, batch.rays)
    read = reader(batch.pictures, SAME).mask
    picture_again = generator(read, *drawn[1])
    dark, pale = (
        to_unit(colour)[:, None].expand(3, 64)
        for colour in torch.tensor([[90.0, 60, 130], [230, 190, 210]])
    )
    painted = [
        (
            to_unit(rendered[b, :, row])
            - torch.where(batch.masks[b, 1:, row].amax(0) > -0.9, dark, pale)
        )
        .abs()
        .mean()
        for b in (0, 1)
        for row in range(64)
    ]
    to_masks = (mask_again - batch.masks).abs().mean()
    to_pictures = (to_unit(picture_again) - to_unit(batch.pictures)).abs().mean()
    terms = {
        "picture_gan": JUDGED[losses[0]][0](literal.picture_discriminator(to_unit(rendered))),
        "mask_gan": JUDGED[losses[1]][0](literal.mask_discriminator(read)),
        "cycle": (to_masks + to_pictures) / 2,
        "instances": literal.criterion(nuclei, labels)["loss"],
        "painted": sum(painted) / 128,
    }
    loss = sum(weight * terms[name] for name, weight in {**WEIGHTS, "painted": 1.5}.items())
    torch.testing.assert_close({name: found[name] for name in terms}, terms, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found["loss"], loss, rtol=1e-4, atol=1e-4)
    for turn in training.turns:
        parameters = [dict(one.turn_parameters(turn)) for one in (training, literal)]
        gradients = [
            torch.autograd.grad(one, [*those.values()], retain_graph=True, allow_unused=True)
            for one, those in zip((found["loss"], loss), parameters, strict=True)
        ]
        for name, one, other in zip(parameters[0], *gradients, strict=True):
            assert (one is None) == (other is None), name
            assert one is None or (one - other).norm() <= 1e-2 * other.norm() + 1e-4, name

    alone, seen = copy.deepcopy(training.reader), dict(training.reader.named_buffers())
    for norm in alone.modules():
        if isinstance(norm, torch.nn.modules.batchnorm._BatchNorm):
            norm.reset_running_stats()
    alone(batch.pictures, SAME)
    means = {name: value for name, value in alone.named_buffers() if "running" in name}
    assert means and all(
        torch.allclose(seen[name], value, rtol=1e-4, atol=1e-5) for name, value in means.items()
    )


@pytest.mark.parametrize("losses", [("logistic", "least squares"), ("least squares", "logistic")])
def test_a_step_of_the_discriminators_is_that_of_the_formula(tmp_path, losses):
    """Real tissue and synthesised masks count as real, generated ones do not; R1 is added every
    second step.
    """
    training, batch, _ = make_training(tmp_path, losses)
    made = training.translate(batch)
    for step in range(3):
        training._outputs.append((made.rendered.detach(), made.read.detach()))
        found = training.losses(batch, "discriminator", 0.0)
        training.after_step(0.0)
        real, masks = to_unit(batch.pictures).requires_grad_(), batch.masks.clone().requires_grad_()
        scores = (
            training.picture_discriminator(real),
            training.picture_discriminator(to_unit(made.rendered.detach())),
        )
        of_masks = (
            training.mask_discriminator(masks),
            training.mask_discriminator(made.read.detach()),
        )
        terms = JUDGED[losses[0]][1](*scores), JUDGED[losses[1]][1](*of_masks)
        loss = sum(terms)
        inputs, logits = (real, scores[0]) if losses[0] == "logistic" else (masks, of_masks[0])
        (slope,) = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
        loss = loss + (2 if step % 2 == 0 else 0) * 0.8 / 2 * (slope**2).sum() / 2
        expected = {"loss": loss, "pictures": terms[0], "masks": terms[1]}
        expected |= {"real_score": scores[0].mean(), "rendered_score": scores[1].mean()}
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        parameters = [one for _, one in training.turn_parameters("discriminator")]
        gradients = (
            torch.autograd.grad(one, parameters, allow_unused=True) for one in (found["loss"], loss)
        )
        torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3)


def test_the_discriminators_judge_accumulated_batches_in_order(tmp_path):
    training, batch, _ = make_training(tmp_path, ("logistic", "least squares"))
    for masks in (batch.masks, -batch.masks):
        training.losses(batch._replace(masks=masks), "generator", 0.0)
    for rendered, _ in list(training._outputs):
        expected = training.picture_discriminator(to_unit(rendered)).mean()
        found = training.losses(batch, "discriminator", 0.0)["rendered_score"]
        torch.testing.assert_close(found, expected)


def test_pictures_are_normalised_by_their_own_stains(tmp_path):
    folder = draw_tissue(tmp_path, 2)
    for name, factor in (("P0", 0.9), ("P1", 1.6)):
        path = str(folder / f"images/{name}.png")
        cv2.imwrite(path, (256 * (cv2.imread(path) / 256.0) ** factor).astype(np.uint8))
    _, config = load_run(write_config(folder))
    write_mask_folder(tmp_path / "masks", 2, TissueSettings(), seed=0, mpp=0.5, size_px=96)
    data = read_unit_data(config, tmp_path / "masks")
    first, second = (image.read((0, 0), (160, 160)).astype(float) for image in data.recoloured)
    colours = [np.percentile(pixels, [5, 50, 95], (0, 1)) for pixels in (first, second)]
    assert abs(colours[0] - colours[1]).max() < 15
    draw = data.make_batches(config, torch.device("cpu"))
    medians = torch.cat([draw(step).pictures for step in range(9)]).flatten(2).median(2)[0]
    assert (medians.amax(0) - medians.amin(0)).max() < 10  # 43 without normalisation


def test_brown_and_empty_tissue_is_named(tmp_path, muse):
    folder = tmp_path / "images"
    folder.mkdir()
    config = write_config(tmp_path)
    (folder / "glass.png").write_bytes(
        cv2.imencode(".png", np.full((200, 200, 3), 245, np.uint8))[1].tobytes()
    )
    command = train(config, tmp_path / "run")
    assert "only 0 of 64 windows drawn from them have tissue" in muse.fails(command)
    pixels = draw_ihc(0.5, (128.0, 128.0))[0]
    cv2.imwrite(str(folder / "glass.png"), pixels[..., ::-1])
    assert "is brown, as in immunohistochemistry; name H&E tissue" in muse.fails(command)


def test_masks_that_cannot_be_used_are_named(tmp_path, tissue, muse):
    masks = tmp_path / "masks"
    write_mask_folder(masks, 2, TissueSettings(), seed=0, mpp=0.25, size_px=96)
    config = write_config(tissue, masks=str(masks))
    failed = muse.fails(train(config, tmp_path / "run"))
    assert "its masks are at 0.25 um/px, but `mpp` is 0.5" in failed


def test_masks_of_a_folder_replace_the_first_stage(tmp_path, tissue):
    masks = tmp_path / "masks"
    write_mask_folder(masks, 2, TissueSettings(), seed=0, mpp=0.5, size_px=96)
    assert len(read_masks(masks, 0.5, 64)) == 2
    recipe, config = load_run(write_config(tissue, masks=str(masks)))
    assert [stage.folder.name for stage in recipe.stages(config, tmp_path)] == [
        "1-translation",
        "2-reader",
    ]


def masks_and_translation(stages, read):
    """The masks, a step of the first stage, and the rate of the second stage, which differs only in
    its schedule.
    """
    masks, first, second = stages
    if masks.name not in read:
        masks.run(Options(start_over=True))
        read[masks.name] = [
            torch.from_numpy(one.instances.astype(int)) for one in read_mask_folder(masks.result)[0]
        ]
    yield from tensors_in(read[masks.name], "masks")
    yield "second rate", torch.tensor(second.config.schedule.rate(STEP))
    yield from parts_of_step(first, read)


SETTINGS = Kind(
    {
        **yaml.safe_load(CONFIG),
        "schedule": SCHEDULE,
        "augmentation": {"blur": 1.0},
        "mask_discriminator": {"widths": [8, 16], "loss": "logistic", "r1_every": 2},
    },
    masks_and_translation,
    "schedule second discriminator_rate weights generator pictures mask_discriminator augmentation",
    {
        "augmentation.blur": 0.0,
        "augmentation.blur_um": 0.3,
        "colour": "identity",
        "generator.base": 4,
        "generator.most": 12,
        "generator.skip_stride": 16,
        "mask_px": 112,
        "mask_discriminator.loss": "least squares",
        "mpp": 0.6,
        "pictures.loss": "least squares",
        "reader.n_rays": 12,
        "tissue.magnification": 1.5,
        "window_px": 80,
    },
    {
        **CARD,
        **dict.fromkeys(
            ("scale", "free_rotation", "partial_colour"),
            "windows are varied after they are rendered",
        ),
        **dict.fromkeys(("weight_decay", "last_weight_decay"), "Adam has none"),
    },
)


@pytest.fixture(scope="module")
def changing(tmp_path_factory):
    return draw_tissue(tmp_path_factory.mktemp("changing"))


@pytest.mark.parametrize("name", SETTINGS.names)
def test_every_setting_acts(changing, name):
    found = SETTINGS.difference(name, changing)
    assert found is not None and (name != "colour" or found.startswith("batch"))
