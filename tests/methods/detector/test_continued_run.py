"""Runs that continue from a whole detector: what they inherit, which labels may be missing, and
what they report.
"""

import dataclasses
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from drawn_labels import box, disc, draw_nuclei, geojson, grid_xy
from labelled import CPU, draw_labelled_folder, write_config
from slide_files import write_pyramid

from experiments.common.training import finetune
from muse_pipeline.core.errors import ConfigError, MuseError
from muse_pipeline.core.pictures import write_png
from muse_pipeline.export.onnx import load_detector
from muse_pipeline.inference.card import replace_outlines
from muse_pipeline.inference.doubts import judge_appearance
from muse_pipeline.inference.model import find_checkpoint
from muse_pipeline.methods.detector.data import read_detector_data
from muse_pipeline.methods.detector.run import load_detector_config
from muse_pipeline.methods.detector.start import (
    complete_texts,
    describe_origins,
    load_trained,
    read_start,
)
from muse_pipeline.methods.detector.validation import Scorer, compare_with_start, find_unlabelled
from muse_pipeline.slides.base import open_slide
from muse_pipeline.slides.inspect import inspect_slide
from muse_pipeline.tissue.colour import measure_colour
from muse_pipeline.tissue.find import find_tissue
from muse_pipeline.training.checkpoint import load_checkpoint, save_checkpoint
from muse_pipeline.training.run import Options

EXPORT = {"input_px": 128, "halo_px": 16, "threshold": 0.05, "colour_share": 0.4}
DARK_ONLY = 'sources.0.class_map={"1": Dark, "2": null}'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Labelled pictures, ``tiny.yaml``, and ``first``, the run of a detector trained with that
    config.
    """
    folder = draw_labelled_folder(tmp_path_factory.mktemp("continued"))
    changes = [f"export.{name}={value}" for name, value in EXPORT.items()]
    path = write_config(folder, steps=30, colour="macenko")
    finetune(load_detector_config(path, changes=changes), folder / "first", CPU)
    without_export = re.sub(r"(?m)^export: .*\n", "", path.read_text())
    path.write_text(without_export)
    return folder


def continued(folder, *changes):
    start = f"checkpoint={folder / 'first/checkpoint.pt'}"
    return load_detector_config(folder / "tiny.yaml", changes=[start, "schedule.steps=2", *changes])


def run(config, folder):
    """The checkpoint of a finished run, and the lines that it printed."""
    output = []
    path = finetune(config, folder, Options(accelerator="cpu", log=output.append))
    return load_checkpoint(path), output


def test_export_settings_are_those_of_the_checkpoint_unless_they_are_set(folder, tmp_path):
    config = continued(folder, "export.threshold=0.6")
    assert dataclasses.asdict(config.export).items() >= {**EXPORT, "threshold": 0.6}.items()
    checkpoint, _ = run(config, tmp_path)
    assert checkpoint.meta["config"]["export"]["colour_share"] == 0.4
    assert load_detector_config(tmp_path / "config.yaml").export == config.export
    _, card = load_detector(tmp_path / "checkpoint.pt")
    assert (card.input_px, card.threshold, card.colour.share) == (128, 0.6, 0.4)


def test_the_built_in_model_passes_its_export_settings_on(folder):
    config = load_detector_config(folder / "tiny.yaml", changes=["checkpoint=compact"])
    assert config.export.colour_share == 0.4


def test_own_settings_of_outlines_replace_inherited_ones(folder):
    def export(*changes):
        return load_detector_config(
            folder / "tiny.yaml", changes=["checkpoint=compact", *changes]
        ).export

    assert export().refine and not export("export.snap_um=1.5").refine
    assert export("export.snap_um=1.5").snap_um == 1.5 and not export("export.refine=false").refine
    assert replace_outlines({"refine": False}) == {"refine": False}  # so snap_um is inherited
    assert replace_outlines({"refine": True}) == {"refine": True, "snap_um": 0.0}
    with pytest.raises(ConfigError, match="snap_um exclude"):
        export("export.snap_um=1.5", "export.refine=true")


def test_a_checkpoint_that_is_not_there_yet_leaves_the_defaults(folder):
    config = load_detector_config(folder / "tiny.yaml", changes=["checkpoint=later.pt"])
    assert config.export.colour_share == 1.0


def test_colours_are_taken_to_the_reference_that_the_detector_has(folder, tmp_path):
    """With a new reference from another laboratory's slides, the detector would see earlier tissue
    in other colours.
    """
    some = "sources.0.exclude=[P1, P2]"
    first = load_checkpoint(folder / "first/checkpoint.pt")
    whole, _ = run(continued(folder, some), tmp_path / "whole")
    assert whole.meta["colour"] == first.meta["colour"]
    backbone_alone, _ = run(continued(folder, some, "n_rays=16"), tmp_path / "backbone")
    assert backbone_alone.meta["colour"] != first.meta["colour"]


def test_the_appearance_reference_covers_old_and_new_pictures(folder, tmp_path):
    first = load_checkpoint(folder / "first/checkpoint.pt").meta["appearance"]
    both = run(continued(folder, "sources.0.exclude=[P1, P2]"), tmp_path)[0].meta["appearance"]
    assert both["n_pictures"] == first["n_pictures"] + 1
    for name, (low, _, high) in first["ranges"].items():
        assert both["ranges"][name][0] <= low and both["ranges"][name][2] >= high


def test_a_continued_model_knows_where_its_classes_do_not_occur(folder, tmp_path):
    first = load_checkpoint(folder / "first/checkpoint.pt")
    known = dataclasses.replace(first, meta={**first.meta, "unlike": {"Dark": ["stroma"]}})
    save_checkpoint(tmp_path / "known.pt", known)
    run(continued(folder, f"checkpoint={tmp_path / 'known.pt'}"), tmp_path / "run")
    assert load_detector(tmp_path / "run/checkpoint.pt")[1].unlike == {"Dark": ("stroma",)}
    compact = load_detector_config(folder / "tiny.yaml", changes=["checkpoint=compact"])
    assert read_start(compact).unlike["Stroma"] == ["epithelium"]


def test_labels_may_lack_a_class_that_the_detector_has(folder, tmp_path):
    checkpoint, output = run(continued(folder, DARK_ONLY), tmp_path / "run")
    assert "classes without training labels: Pale" in output
    assert all(
        torch.isfinite(value).all() for value in (checkpoint.backbone | checkpoint.head).values()
    )


def test_validation_labels_may_lack_it_too_and_their_mean_is_over_the_others(folder, tmp_path):
    config = continued(folder, "sources.0.exclude=[P2]")
    held = dataclasses.replace(
        config.sources[0], exclude=("P0", "P1"), class_map={"1": "Dark", "2": None}
    )
    checkpoint, output = run(dataclasses.replace(config, validation=(held,)), tmp_path)
    assert "classes without validation labels: Pale" in output
    scores = checkpoint.meta["scores"]
    assert scores["validation mean class F1"] == scores["validation Dark F1"]
    _, card = load_detector(tmp_path / "checkpoint.pt")
    assert card.metrics == {
        "validation mean class F1, which chose the weights": scores["validation mean class F1"]
    }
    assert any(
        re.match(r"mean class F1 on the validation labels, not trained on: [\d.]+ before, ", s)
        for s in output
    )


def test_a_run_from_random_weights_reports_nothing_of_before(folder, tmp_path):
    _, output = run(continued(folder, "checkpoint=null"), tmp_path)
    assert not any("before" in sentence for sentence in output)


SIZE, REGION, XY = (900, 600), (80, 80, 380, 520), grid_xy((900, 600), step_px=40, first_px=60)


def draw_slide(folder):
    """Write ``S.tif``, which is paler in its right half, and labels for the nuclei in
    ``REGION``.
    """
    pixels = draw_nuclei(SIZE, XY).astype(float)
    pixels[:, 450:] = 255 - 0.35 * (255 - pixels[:, 450:])
    pixels[:40] = pixels[-40:] = pixels[:, :40] = pixels[:, -40:] = 245
    write_pyramid(folder / "S.tif", pixels.astype(np.uint8))
    inside = XY[((REGION[:2] < XY) & (REGION[2:] > XY)).all(1)]
    (folder / "annotations").mkdir()
    features = [(disc(*xy, 6), "Dark" if i % 2 else "Pale") for i, xy in enumerate(inside)]
    (folder / "annotations/S.geojson").write_text(geojson((box(*REGION), "Region*"), *features))


def slide_config(folder, path, *changes):
    source = f"sources=[{{slides: {folder}, labels: {folder / 'annotations'}, format: geojson}}]"
    return load_detector_config(path, changes=[source, "schedule.steps=2", *changes])


def test_a_model_does_not_find_its_own_training_slide_unlike_training(folder, tmp_path):
    draw_slide(tmp_path)
    run(slide_config(tmp_path, folder / "tiny.yaml"), tmp_path / "run")
    _, card = load_detector(tmp_path / "run/checkpoint.pt")
    info = inspect_slide(tmp_path / "S.tif", "S")
    with open_slide(tmp_path / "S.tif", info.reader) as slide:
        colour = measure_colour(slide, info, find_tissue(slide, info).tissue)
    assert judge_appearance(card.appearance, colour).verdict == "ok"


REPORT = (
    (
        r"mean class F1 on the training labels, as there is no `validation`: ([\d.]+) before,"
        r" ([\d.]+) now; Dark [\d.]+ to [\d.]+; Pale [\d.]+ to [\d.]+"
    ),
    r"nuclei found on them: (\d+) before, (\d+) now \(([-+]\d+)\), of 77 labelled",
)


def test_what_changed_is_measured(folder, tmp_path):
    """A network with the same weights has the same scores, and one with swapped classes has not."""
    draw_slide(tmp_path)
    config = slide_config(
        tmp_path, folder / "tiny.yaml", f"checkpoint={folder / 'first/checkpoint.pt'}"
    )
    start = read_start(config)
    network, _, _ = load_trained(start.path)
    data = read_detector_data(config, start)
    for same_classes in (True, False):
        if not same_classes:
            with torch.no_grad():
                network.head.out.weight[3:5] = network.head.out.weight[3:5].flip(0)
                network.head.out.bias[3:5] = network.head.out.bias[3:5].flip(0)
        labels, number, *falls = compare_with_start(data, start, network)
        assert same_classes or "warning: F1 on training labels falls: Dark -" in falls[0]
        before, now = re.fullmatch(REPORT[0], labels).groups()
        assert (before == now) == same_classes
        n_before, n_now, more = map(int, re.fullmatch(REPORT[1], number).groups())
        assert n_before == n_now > 0 and more == 0


@pytest.fixture
def masks(folder, tmp_path) -> str:
    """Settings of a source of masks without classes."""
    xy = grid_xy((200, 200), step_px=40, first_px=20)
    mask = np.zeros((200, 200), np.uint8)
    for x, y in xy.astype(int).tolist():
        cv2.circle(mask, (x, y), 6, 255, -1)
    for name, pixels in (("images", draw_nuclei((200, 200), xy)), ("masks", mask)):
        (tmp_path / name).mkdir()
        write_png(tmp_path / name / "P.png", pixels)
    return (
        f"[{{images: {tmp_path / 'images'}, labels: {tmp_path / 'masks'}, format: masks, mpp:"
        " 0.5}]"
    )


def test_the_start_teaches_its_classes_where_masks_have_none(folder, masks, tmp_path):
    first, teachers = (
        folder / "first/checkpoint.pt",
        [folder / "first/checkpoint.pt", tmp_path / "swapped.pt"],
    )
    start = load_checkpoint(first)
    head = {
        name: torch.cat([each[:3], each[3:5].flip(0), each[5:]])
        for name, each in start.head.items()
        if "out." in name
    }
    save_checkpoint(teachers[1], dataclasses.replace(start, head=start.head | head))
    taught = []
    for teacher in teachers:
        words = f"sources={masks}", f"distillation={{teachers: [{teacher}]}}"
        checkpoint, output = run(continued(folder, *words), tmp_path / teacher.stem)
        assert "classes without training labels: Dark, Pale" in output
        assert any(
            sentence.startswith("detection F1 on the training labels") for sentence in output
        )
        taught.append(checkpoint.head["out.weight"])
    towards_swapped = head["out.weight"] - start.head["out.weight"]
    assert ((taught[1] - taught[0]) * towards_swapped).sum() > 0


@pytest.mark.parametrize(
    "words, message",
    [
        (["sources=MASKS"], "name these weights in `distillation.teachers`"),
        (["validation=MASKS"], "so they cannot choose weights; remove `validation`"),
    ],
)
def test_masks_without_classes_cannot_do_everything(folder, masks, tmp_path, words, message):
    with pytest.raises(MuseError, match=re.escape(message)):
        run(continued(folder, *(word.replace("MASKS", masks) for word in words)), tmp_path / "run")


def test_the_card_keeps_data_and_limits_of_the_start(folder, tmp_path):
    draw_slide(tmp_path)
    start = f"checkpoint={folder / 'first/checkpoint.pt'}"
    words = 'training_data="our slide"', 'limits="Research use only."', "organ=Mamma"
    run(slide_config(tmp_path, folder / "tiny.yaml", start, *words), tmp_path / "run")
    _, card = load_detector(tmp_path / "run/checkpoint.pt")
    assert card.training_data == "our slide. It continues tiny, which was trained on: drawn discs"
    assert card.limits == "Research use only."
    assert card.organs == {"Dark": ("breast",), "Pale": ("breast",)}
    config = slide_config(
        tmp_path, folder / "tiny.yaml", f"checkpoint={tmp_path / 'run/checkpoint.pt'}", *words
    )
    compact = find_checkpoint(Path("compact"))
    origins = describe_origins([config.checkpoint, compact], config, [])
    assert origins["training_data"].startswith(
        f"It continues tiny, which was trained on: {card.training_data}. Its t"
    )
    assert "Its teacher is compact, which was trained on: BRCA-M2C" in origins["training_data"]
    assert "Of compact: Lymphocyte means" in origins["limits"]
    assert (
        complete_texts(config, {"origins": origins})["limits"] == origins["limits"]
    )  # already contains the sentence
    assert describe_origins([compact], config, load_checkpoint(compact).seen.images) == {
        "training_data": "",
        "limits": "",
        "encoder": "",
    }


def test_the_organ_of_the_sheet_is_that_of_learnt_classes(folder, tmp_path):
    draw_slide(tmp_path)
    sheet = tmp_path / "sheet.tsv"
    sheet.write_text(f"slide_id\tpath\torgan\nS\t{tmp_path / 'S.tif'}\tKolon\n")
    config = slide_config(tmp_path, folder / "tiny.yaml", "organ=breast")
    source = dataclasses.replace(config.sources[0], slides=sheet)
    data = read_detector_data(dataclasses.replace(config, sources=(source,)))
    assert data.organs([1]) == {"Dark": ["colon"]}
    few = dataclasses.replace(data.images[0], nuclei=data.images[0].nuclei[:30])
    assert dataclasses.replace(data, held=[few]).organs([]) == {}  # 15 of each class
    assert dataclasses.replace(data, held=[few, few]).organs([]).keys() == {"Dark", "Pale"}


def test_pictures_with_few_of_their_nuclei_labelled_are_named(folder):
    config = continued(folder, "export.threshold=0.3")
    start = read_start(config)
    data = read_detector_data(config, start)
    scorer = Scorer(load_trained(start.path)[0], config, start.colour)
    assert not [*find_unlabelled(data.images, scorer)]
    few = dataclasses.replace(data.images[0], nuclei=data.images[0].nuclei[:5])
    (warning,) = find_unlabelled([few, *data.images[1:]], scorer)
    pattern = r"P0: only 5 nuclei are labelled, but (\d+) are found; unlabelled nuclei count as .*"
    assert int(re.fullmatch(pattern, warning)[1]) >= 30
