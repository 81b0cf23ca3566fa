"""Each stage of PSM by itself, on a few pixels: what it computes, what it writes and what it is
made from.
"""

import dataclasses
import hashlib
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from labelled import CPU
from test_psm import load_psm_config
from tiny_runs import PSM as CONFIG

from muse_pipeline.methods.psm.activation_map import ActivationNetwork
from muse_pipeline.methods.psm.run import (
    DetectorStage,
    FoundLabelsStage,
    LabelsStage,
    PriorSelfActivation,
    PseudoMaskStage,
    PsmRecipe,
    configure_detector,
    read_pictures_and_masks,
)
from muse_pipeline.training.checkpoint import Checkpoint, save_checkpoint


@pytest.fixture
def config(tmp_path):
    """Settings with a single picture as the only source."""
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images/P.png"), stained(np.random.default_rng(0))[..., ::-1])
    (tmp_path / "psm.yaml").write_text(CONFIG)
    return load_psm_config(tmp_path / "psm.yaml")


def stained(generator, side=64):
    """Two dark discs on a pink background, with grain."""
    pixels = np.full((side, side, 3), (230, 170, 205), np.uint8)
    for x in (20, 44):
        cv2.circle(pixels, (x, 32), 7, (90, 50, 130), -1)
    return np.clip(pixels + generator.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8)


def save_masks(folder, pixels, mask):
    """Write the files of a finished masks stage, and return its folder."""
    for name in ("pictures", "masks"):
        (folder / name).mkdir(parents=True)
    cv2.imwrite(str(folder / "pictures/a.png"), pixels[..., ::-1])
    cv2.imwrite(str(folder / "masks/a.png"), mask.astype(np.uint8) * 255)
    (folder / "made-from.json").write_text("{}")
    return folder


def test_activation_compares_a_window_with_its_half_turn():
    """Pixel (y, x) of the turned window is pixel (S - 1 - y, S - 1 - x); batch norms see both
    windows together.
    """
    torch.manual_seed(0)
    method = PriorSelfActivation(ActivationNetwork("shallow_cnn")).train()
    batch = torch.randint(0, 256, (2, 3, 32, 32)).float()
    turned = torch.empty_like(batch)
    for y in range(32):
        for x in range(32):
            turned[:, :, y, x] = batch[:, :, 31 - y, 31 - x]
    output = method.network(torch.cat([batch, turned]))[:, 0].tolist()
    expected = (abs(output[0] - output[2]) + abs(output[1] - output[3])) / 2
    assert method.losses(batch, "model", 0.0)["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_labels_are_the_nuclei_of_the_masks(config, tmp_path):
    pixels = stained(np.random.default_rng(0))
    masks = save_masks(tmp_path / "masks", pixels, pixels[..., 1] < 110)
    LabelsStage(config, masks, tmp_path / "labels").run(CPU)
    assert cv2.imread(str(tmp_path / "labels/instances/a.png"), cv2.IMREAD_UNCHANGED).max() == 2


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_labels_are_made_again_when_masks_change(config, tmp_path):
    masks = save_masks(tmp_path / "masks", np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9)))
    first = LabelsStage(config, masks, tmp_path / "labels").made_from()
    assert first["masks"] == sha256(masks / "made-from.json")
    (masks / "made-from.json").write_text("{ }")
    second = LabelsStage(config, masks, tmp_path / "labels").made_from()
    assert {name for name in first if first[name] != second[name]} == {"masks"}


def test_found_labels_are_made_again_when_the_detector_or_its_export_changes(config, tmp_path):
    path, meta = tmp_path / "detector.pt", {"kind": "detector", "config": {}, "colour": None}
    settings = configure_detector(config, tmp_path / "labels")

    def made_from(**changes):
        export = dataclasses.replace(settings.export, **changes)
        changed = dataclasses.replace(settings, export=export)
        return FoundLabelsStage(
            changed, path, tmp_path / "labels", tmp_path / "found", "found"
        ).made_from()

    save_checkpoint(path, Checkpoint({"a": torch.zeros(2)}, {"b": torch.zeros(2)}, meta))
    first = made_from()
    for change in ({"threshold": 0.1}, {"colour_share": 0.5}, {"snap_um": 0.5}, {"refine": True}):
        assert made_from(**change) != first
    assert made_from(precision="int8") == first
    for backbone, head in (([0.0, 1], [0.0, 0]), ([0.0, 0], [0.0, 1])):
        save_checkpoint(
            path, Checkpoint({"a": torch.tensor(backbone)}, {"b": torch.tensor(head)}, meta)
        )
        assert made_from() != first


def test_found_labels_depend_on_the_strength_of_normalisation(config, tmp_path):
    pixels = stained(np.random.default_rng(0))
    masks = save_masks(tmp_path / "masks", pixels, pixels[..., 1] < 110)
    cv2.imwrite(
        str(masks / "pictures/b.png"), (256 * (pixels[..., ::-1] / 256) ** 2).astype(np.uint8)
    )
    shutil.copy(masks / "masks/a.png", masks / "masks/b.png")
    LabelsStage(config, masks, tmp_path / "labels").run(CPU)
    settings = configure_detector(config, tmp_path / "labels")
    stage = DetectorStage(settings, tmp_path / "run", "detector")
    data = stage.read(print)
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "detector.pt", stage.checkpoint(data, stage.build(data)))
    labels = set()
    for share in (0.0, 0.5, 1.0):
        export = dataclasses.replace(settings.export, threshold=0.001, colour_share=share)
        settings, folder = dataclasses.replace(settings, export=export), tmp_path / f"found {share}"
        FoundLabelsStage(
            settings, tmp_path / "detector.pt", tmp_path / "labels", folder, "found"
        ).run(CPU)
        labels.add((folder / "instances/b.png").read_bytes())
    assert len(labels) == 3


def test_every_stage_reads_what_the_one_before_left(config, tmp_path):
    """Labels are made from the masks; each round of self-training uses the labels found by the
    previous detector.
    """
    changed = dataclasses.replace(
        config,
        masks="activation",
        self_training=dataclasses.replace(config.self_training, rounds=2, threshold=0.2),
    )
    stages = {stage.name: stage for stage in PsmRecipe().stages(changed, tmp_path / "run")}
    found = [
        stage
        for stage in PsmRecipe().stages(changed, tmp_path / "run")
        if isinstance(stage, FoundLabelsStage)
    ]
    masks, labels, detector = stages["masks"], stages["labels"], stages["detector"]
    assert masks.activation == stages["activation"].result
    assert labels.masks == masks.result
    assert detector.config.sources[0].labels == labels.result / "instances"
    trained = [detector, stages["self-training-1"], stages["self-training-2"]]
    for number, stage in enumerate(found):
        assert stage.detector == trained[number].result and stage.config.export.threshold == 0.2
        assert trained[number + 1].config.sources[0].labels == stage.result / "instances"
    assert (found[0].labels, found[1].labels) == (labels.result, found[0].result)


def test_masks_are_fitted_to_each_picture(config, tmp_path):
    """Nuclei of a pale picture are found even if another picture is dark."""
    pale = np.round(255 * (stained(np.random.default_rng(1)) / 255) ** 0.5).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "images/Q.png"), pale[..., ::-1])
    PseudoMaskStage(config, None, tmp_path / "masks").run(CPU)
    for _, _, mask in read_pictures_and_masks(tmp_path / "masks"):
        discs = np.zeros((64, 64), np.uint8)
        for x in (20, 44):
            cv2.circle(discs, (x, 32), 7, 1, -1)
        assert (mask == (discs > 0)).mean() > 0.97
