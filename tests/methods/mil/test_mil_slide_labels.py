"""From slides with one label each to a region model; also areas drawn on slides as labels."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from drawn_labels import box, geojson
from drawn_regions import GLASS_UM, MPP, SLIDE_MPP, dice, draw_slide
from every_setting import REPORTS, SCHEDULE, Kind, parts_of_step, with_setting
from inference_slides import tile_slide
from region_slides import read_polygons
from slide_files import write_pyramid

from muse_pipeline.cli.main import main
from muse_pipeline.core.errors import LabelError
from muse_pipeline.core.files import read_json
from muse_pipeline.evaluation.bootstrap import area_interval, area_under_curve
from muse_pipeline.export.region_models import load_region_model
from muse_pipeline.inference.card import ColourReference
from muse_pipeline.inference.stains import colour_of_fit, read_colour
from muse_pipeline.methods.mil.attention import (
    AttentionStage,
    BagOutput,
    TilesStage,
    choose_tiles,
)
from muse_pipeline.methods.mil.bags import BagsStage, LabelledSlide, deal_folds
from muse_pipeline.methods.mil.tissue import UNKNOWN, TissueSource, read_tissue_images
from muse_pipeline.models import BACKBONES
from muse_pipeline.store.store import open_store
from muse_pipeline.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from muse_pipeline.training.recipe import load_run

CLASSES = ("Stroma", "Tumour")
GLASS_PX = round(GLASS_UM / MPP)
CONFIG = """
method: mil
name: drawn
backbone: muse_compact_16
mpp: 2
classes:
  - { name: Stroma, color: [150, 200, 150] }
  - { name: Tumour, color: [200, 0, 0] }
slide_labels:
  slides: slides.tsv
  stores: results
  checkpoint: null
  backbone: muse_compact_16
  folds: %(folds)d
  schedule: { steps: 60, learning_rate: 0.003, save_every: 30, log_every: 10 }
  tiles_per_slide: %(tiles)d
  least_probability: %(probability)g
colour: identity
window_px: 64
batch: 8
schedule:
  { steps: %(steps)d, learning_rate: 0.002, save_every: 100, validate_every: 20, log_every: 10 }
student: { rounds: 1 }
export: { input_px: 384, halo_px: 64 }
licence: CC0-1.0
training_data: drawn slides
"""


def draw_islands(size_um, seed):
    """(h, w) bool at 2 um/px: three discs of tumour."""
    rng = np.random.default_rng(seed)
    width, height = (round(side / MPP) for side in size_um)
    tumour = np.zeros((height, width), np.uint8)
    for x in (0.2, 0.5, 0.8):
        centre = round(width * x), round(height * rng.uniform(0.3, 0.7))
        cv2.circle(tumour, centre, round(height * rng.uniform(0.18, 0.26)), 1, -1)
    return tumour > 0


def draw_cohort(
    folder: Path, n_slides: int, size_um: tuple[int, int], **settings
) -> dict[str, np.ndarray]:
    """Write slides with their stores, a sheet with labels, and a config; return the tumour mask of
    each slide.
    """
    masks, rows = {}, ["slide_id\tpath\tpatient\tlabel"]
    for number in range(n_slides):
        name, has_tumour = f"s{number}", number % 2 == 1
        islands = draw_islands(size_um, number)
        masks[name] = islands if has_tumour else np.zeros_like(islands)
        slide, results = folder / f"{name}.tif", folder / "results" / name
        results.mkdir(parents=True)
        write_pyramid(slide, draw_slide(masks[name], seed=number), factors=(4,), mpp=SLIDE_MPP)
        tile_slide(results, slide, name)
        rows.append(f"{name}\t{slide}\tP{number}\t{CLASSES[has_tumour]}")
    (folder / "slides.tsv").write_text("\n".join(rows) + "\n")
    defaults = {"folds": 2, "tiles": 8, "probability": 0.5, "steps": 4}
    (folder / "mil.yaml").write_text(CONFIG % {**defaults, **settings})
    return masks


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    return folder, draw_cohort(folder, 4, (900, 600))


def train(folder, *more):
    words = ["--accelerator", "cpu", "--threads", "1", *more]
    return ["train", str(folder / "mil.yaml"), "-o", str(folder / "run"), *words]


def test_labels_of_slides_become_a_region_model(cohort, muse):
    folder, _ = cohort
    status, _, errors = muse(*train(folder))
    assert status == 0, errors
    stages = sorted(path.name for path in (folder / "run/stages").iterdir())
    assert stages == [
        "1-bags",
        "2-attention-1",
        "3-attention-2",
        "4-tiles",
        "5-teacher",
        "6-student",
    ]
    assert "slides: AUC of Tumour" in errors and "over 4 patients" in errors
    bag = np.load(folder / "run/stages/1-bags/s0.npy", mmap_mode="r")
    assert bag.dtype == np.float16 and bag.ndim == 2
    tiles = folder / "run/stages/4-tiles"
    patients = {
        split: {
            line.split("\t")[2]
            for line in (tiles / split / "labels.tsv").read_text().splitlines()[1:]
        }
        for split in ("training", "validation")
    }
    assert (
        not patients["training"] & patients["validation"]
        and len(set.union(*patients.values())) == 4
    )
    scores = read_json(tiles / "slides.json")
    metrics = load_checkpoint(folder / "run/checkpoint.pt").meta["region"]["metrics"]
    assert metrics["AUC of slides, Tumour"] == round(scores["classes"]["Tumour"]["auc"], 4)
    assert set(scores["slides"]) == {"s0", "s1", "s2", "s3"} and 0 <= scores["auc"] <= 1
    assert load_region_model(folder / "run/checkpoint.pt")[1].kind == "regions"


def write_bags(folder: Path, n_slides: int = 4) -> Path:
    """Write bags for slides named as in ``cohort``: two tiles each, with features far apart between
    slides.
    """
    folder.mkdir(parents=True)
    for number in range(n_slides):
        np.save(
            folder / f"s{number}.npy",
            np.array([[10 * number, 1], [10 * number + 1, 3]], np.float16),
        )
        np.save(folder / f"s{number}-xy.npy", np.array([[100, 100], [164, 100]]))
    rows = [f"s{number}\t{number % 2}\tP{number}\t2\n" for number in range(n_slides)]
    (folder / "slides.tsv").write_text("".join(rows))
    (folder / "made-from.json").write_text("{}")
    return folder


def test_features_are_of_tiles_in_the_colours_of_the_backbone(cohort, tmp_path):
    torch.manual_seed(0)
    backbone = BACKBONES["muse_compact_16"]().eval()
    reference = ColourReference("macenko", ((0.6, 0.7, 0.39), (0.2, 0.9, 0.39)), (0.5, 0.4))
    meta = {
        "kind": "backbone",
        "backbone": "muse_compact_16",
        "colour": dataclasses.asdict(reference),
    }
    save_checkpoint(tmp_path / "backbone.pt", Checkpoint(backbone.state_dict(), {}, meta))
    _, config = load_run(
        cohort[0] / "mil.yaml", changes=[f"slide_labels.checkpoint={tmp_path / 'backbone.pt'}"]
    )
    config = with_setting(config, "window_px", 256)  # large, so that there are few tiles
    (tmp_path / "bags").mkdir()
    BagsStage(config, tmp_path).write(tmp_path / "bags", lambda line: None)
    folder = cohort[0] / "results/s1"
    store, (x, y) = (
        open_store(folder / "image-500nm.zarr").at(MPP),
        np.load(tmp_path / "bags/s1-xy.npy")[1].tolist(),
    )
    colour = torch.from_numpy(colour_of_fit(reference, read_colour(folder / "colour.json").macenko))
    tile = torch.from_numpy(store.read((x, y), (256, 256))).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        expected = backbone(backbone.prepare(tile, colour)).image[0]
    assert np.allclose(np.load(tmp_path / "bags/s1.npy")[1], expected, rtol=1e-2, atol=1e-2)
    assert not torch.allclose(colour, torch.eye(3, 4), atol=0.05)


def test_bags_of_another_mpp_are_made_again(cohort, tmp_path):
    _, config = load_run(cohort[0] / "mil.yaml")
    coarser = dataclasses.replace(config, mpp=2 * MPP)
    one, other = (BagsStage(each, tmp_path).made_from() for each in (config, coarser))
    assert one != other


FOLDS = {
    "s0": 0,
    "s1": 0,
    "s2": 1,
    "s3": 1,
}  # each fold has a patient of each class: P0 or P2, and P1 or P3


def load_cohort_stages(cohort, bags, folder):
    """The attention stages and the tiles stage of a run whose bags are in the folder ``bags``."""
    recipe, config = load_run(cohort[0] / "mil.yaml")
    _, first, second, tiles, *_ = recipe.stages(config, folder)
    attention = [
        AttentionStage(dataclasses.replace(one.config, bags=bags), one.folder)
        for one in (first, second)
    ]
    return attention, TilesStage(config, bags, tiles.models, folder / "tiles")


def test_slides_of_a_rare_class_are_drawn_as_often_as_others(cohort, tmp_path):
    (stage, _), _ = load_cohort_stages(cohort, write_bags(tmp_path / "bags"), tmp_path)
    bags = [
        dataclasses.replace(bag, slide=dataclasses.replace(bag.slide, label=int(number == 0)))
        for number, bag in enumerate(9 * stage.read(print))  # 1 of 18
    ]
    draw = stage.batches(bags, torch.device("cpu"))
    labels = torch.cat([label for step in range(100) for _, label in draw(step)])
    assert 0.4 < labels.mean() < 0.6


def test_the_slides_of_a_fold_are_read_by_the_model_that_was_trained_on_the_others(
    cohort, tmp_path
):
    """The models give the same logit for all tiles: 1 for the first fold, 3 for the second."""
    attention, tiles = load_cohort_stages(cohort, write_bags(tmp_path / "bags"), tmp_path)
    for stage, answer in zip(attention, (1.0, 3.0), strict=True):
        bags = stage.read(print)
        assert {bag.slide.slide_id for bag in bags} == {
            s for s, fold in FOLDS.items() if fold != stage.config.fold
        }
        method = stage.build(bags)
        features = np.concatenate(
            [np.load(tmp_path / f"bags/{bag.slide.slide_id}.npy") for bag in bags]
        )
        assert np.allclose(method.network.mean, features.astype(float).mean(0))
        assert np.allclose(method.network.deviation, features.astype(float).std(0))
        drawn = {
            tuple(one[0, 0].item() for one, _ in stage.batches(bags, torch.device("cpu"))(n))
            for n in range(9)
        }
        assert {first for step in drawn for first in step} == {
            10.0 * int(bag.slide.slide_id[1]) for bag in bags
        }
        for parameter in method.network.classify.parameters():
            torch.nn.init.constant_(parameter, 0.0)
        torch.nn.init.constant_(method.network.classify.bias, answer)
        stage.folder.mkdir(parents=True)
        checkpoint = stage.checkpoint(bags, method)
        assert checkpoint.meta["patients"] == [f"P{bag.slide.slide_id[1]}" for bag in bags]
        save_checkpoint(stage.result, checkpoint)
    (tmp_path / "tiles").mkdir()
    tiles.write(tmp_path / "tiles", print)
    found = read_json(tmp_path / "tiles/slides.json")["slides"]
    for slide, fold in FOLDS.items():
        assert found[slide]["probability"] == [
            pytest.approx(1 / (1 + np.exp(-(1.0, 3.0)[fold])), abs=1e-5)
        ]
        assert found[slide]["fold"] == fold
    for split, slides in (("validation", "s0 s1"), ("training", "s2 s3")):
        pictures = sorted(path.stem for path in (tmp_path / "tiles" / split / "images").iterdir())
        assert pictures == [f"{slide}_x{x}_y100" for slide in slides.split() for x in (100, 164)]
    tiles.config = with_setting(tiles.config, "slide_labels.tiles_per_slide", 1)
    (tmp_path / "fewer").mkdir()
    tiles.write(tmp_path / "fewer", print)
    assert len([*(tmp_path / "fewer").rglob("*.png")]) == 4
    tiles.config = with_setting(tiles.config, "slide_labels.least_probability", 0.9)
    with pytest.raises(LabelError, match="validation slides"):
        (tmp_path / "none").mkdir()
        tiles.write(tmp_path / "none", print)


@pytest.mark.parametrize(
    "column, sentence",
    [
        (
            "Tumour\tTumour\tTumour\tStroma",
            "slides of Stroma come from 1 patient, too few for each of 2 folds",
        ),
        ("Tumour\tTumour\tStroma\tNecrosis", "label 'Necrosis' is not a class of the model"),
    ],
)
def test_bad_labels_of_slides_end_with_one_sentence(cohort, muse, tmp_path, column, sentence):
    folder, _ = cohort
    rows = [f"s{number}\t{word}" for number, word in enumerate(column.split("\t"))]
    (tmp_path / "labels.tsv").write_text("\n".join(["slide\tlabel", *rows]) + "\n")
    table = f"slide_labels.table={tmp_path / 'labels.tsv'}"
    assert sentence in muse.fails(
        f"train {folder / 'mil.yaml'} -o {tmp_path / 'run'} --set {table}"
    )


def test_drawn_areas_label_their_pixels_and_nothing_else(cohort, tmp_path):
    folder, _ = cohort
    stroma, tumour = box(100, 100, 300, 300), box(900, 900, 1300, 1200)
    (tmp_path / "s1.geojson").write_text(geojson((stroma, "Stroma"), (tumour, "Tumour")))
    source = TissueSource(slides=folder / "slides.tsv", areas=tmp_path)
    images = read_tissue_images([source], CLASSES, MPP, 64)
    assert {one.patient for one in images} == {"P1"} and all(one.label == -1 for one in images)
    counts = sum(np.bincount(one.target.ravel(), minlength=256) for one in images)
    assert counts[0] == 200 * 200 / 16 and counts[1] == 400 * 300 / 16
    assert counts[UNKNOWN] > 0 and counts.sum() == counts[[0, 1, UNKNOWN]].sum()
    (tmp_path / "s1.geojson").write_text(geojson((tumour, "Stroma"), (tumour, "Tumour")))
    with pytest.raises(LabelError, match="Tumour overlap"):
        read_tissue_images([source], CLASSES, MPP, 64)


def test_tiles_are_chosen_by_attention_and_their_own_probability():
    attention = torch.tensor([[0.1], [0.5], [0.3], [0.1]])
    output = BagOutput(torch.zeros(1), attention, torch.tensor([[9.0], [9.0], [0.0], [9.0]]))
    assert choose_tiles(output, 1, most=3, least_probability=0.9).tolist() == [1, 0]
    assert choose_tiles(output, 0, most=2, least_probability=0.9).tolist() == [0, 3]


def test_folds_keep_patients_together_and_have_every_class():
    slides = [LabelledSlide(f"s{i}", i % 2, f"P{i // 2 if i < 4 else i}") for i in range(12)]
    dealt = deal_folds(slides, 2)
    assert dealt[0] == dealt[1] and dealt[2] == dealt[3]
    for fold in range(2):
        assert {slide.label for slide, one in zip(slides, dealt, strict=True) if one == fold} == {
            0,
            1,
        }
    both = {
        "P0": (0, 1),
        "P1": (1,),
        "P2": (0, 1),
        "P3": (1,),
    }  # in order of patients, P0 and P2 share a fold
    slides = [
        LabelledSlide(f"s{label}{patient}", label, patient)
        for patient, own in both.items()
        for label in own
    ]
    assert deal_folds(slides, 2).tolist() == [0, 0, 0, 1, 1, 1]


def test_area_under_the_curve_counts_ordered_pairs():
    scores, positive = np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, True, False, True])
    assert area_under_curve(scores, positive) == pytest.approx(3.5 / 4)
    assert np.isnan(area_under_curve(scores, positive & False))
    low, high = area_interval(scores, positive, ["a", "b", "c", "d"])
    assert 0 <= low <= high <= 1 and area_interval(scores, positive, ["a"] * 4) is None


def rasterise(polygons, shape):
    mask = np.zeros(shape, np.uint8)
    for name, outline in polygons:
        for part in getattr(outline, "geoms", [outline]):
            scale = MPP / SLIDE_MPP
            rings = [
                np.round(np.array(ring.coords) / scale).astype(np.int32)
                for ring in (part.exterior, *part.interiors)
            ]
            if name == "Tumour":
                cv2.fillPoly(mask, rings, 1)
    return mask > 0


@pytest.mark.slow
@pytest.mark.timeout(1200)  # a minute or two on an idle core
def test_islands_are_found_from_labels_of_twelve_slides(tmp_path):
    masks = draw_cohort(tmp_path, 12, (1200, 900), folds=3, tiles=40, probability=0.9, steps=150)
    assert main(train(tmp_path)) == 0
    run = tmp_path / "run"
    scores = read_json(run / "stages/5-tiles/slides.json")
    assert scores["auc"] >= 0.97
    assert main(["export", str(run / "checkpoint.pt"), "-o", str(tmp_path / "m.onnx")]) == 0
    found = {}
    for name, mask in masks.items():
        output = tmp_path / "regions" / name
        store = str(tmp_path / "results" / name / "image-500nm.zarr")
        assert main(["regions", store, "--model", str(tmp_path / "m.onnx"), "-o", str(output)]) == 0
        truth = np.pad(mask, GLASS_PX)
        area = rasterise(read_polygons(output), truth.shape)
        found[name] = dice(area, truth) if truth.any() else float(area.sum() / mask.size)
    print(found)
    dices, false = (
        [found[f"s{i}"] for i in range(1, 12, 2)],
        [found[f"s{i}"] for i in range(0, 12, 2)],
    )
    assert np.mean(dices) >= 0.75 and min(dices) >= 0.6 and max(false) <= 0.01


def attention(stages, read):
    """The parts of a step of the first fold's attention stage, in a run of MIL whose bags are
    already written.
    """
    yield "stages", torch.tensor(len(stages))
    yield from parts_of_step(stages[1], read)


SETTINGS = Kind(
    yaml.safe_load(CONFIG % {"folds": 2, "tiles": 1, "probability": 0, "steps": 1})
    | {
        "slide_labels": {
            "slides": "slides.tsv",
            "stores": "stores",
            "folds": 2,
            "schedule": SCHEDULE,
        }
    },
    attention,
    "slide_labels.schedule",
    {},
    {
        **{f"slide_labels.{name}": reason for name, reason in REPORTS.items()},
        **dict.fromkeys(
            ("tiles_per_slide", "least_probability"), "after the training: test_mil_slide_labels.py"
        ),
    },
    "slide_labels.",
)


@pytest.fixture(scope="module")
def bags(tmp_path_factory):
    """A folder with the bags of six slides from six patients."""
    folder = tmp_path_factory.mktemp("bags")
    write_bags(folder / "stages/1-bags", 6)
    return folder


@pytest.mark.parametrize("name", SETTINGS.names)
def test_every_setting_of_slide_labels_acts(bags, name):
    assert SETTINGS.difference(name, bags) is not None
