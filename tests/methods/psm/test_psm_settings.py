"""Every numeric setting of PSM changes the batches, the updates or the files of its stage."""

import dataclasses

import cv2
import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from numeric_settings import numeric_settings, with_setting
from pretraining import draw_slide
from test_psm import CONFIG, load_psm_config
from test_psm_stages import stained

from muse_pipeline.core.errors import ConfigError
from muse_pipeline.data.unlabelled import UnlabelledSource
from muse_pipeline.methods.psm.activation import ActivationStage
from muse_pipeline.methods.psm.run import (
    MasksStage,
    PsmRecipe,
    activation_config,
    detector_config,
    read_pictures_and_masks,
    split_instances,
)
from muse_pipeline.proposals.activation_map import ActivationNetwork
from muse_pipeline.training.checkpoint import Checkpoint, save_checkpoint
from muse_pipeline.training.loop import train
from muse_pipeline.training.run import RunFolder

SCHEDULE = {
    "steps": 3,
    "learning_rate": 4e-3,
    "warmup": 1.0,
    "weight_decay": 0.2,
    "last_weight_decay": 0.5,
    "clip": 1e-3,
    "accumulate": 2,
    "reference_batches": 4,
}
AUGMENTATION = {
    "scale": 2.0,
    "free_rotation": 0.0,
    "stain_gain": 0.6,
    "stain_mix": 0.3,
    "shift": 0.2,
    "partial_colour": 0.9,
    "blur": 0.0,
    "blur_um": 1.5,
    "noise": 20.0,
}
TRAINED = {**{f"schedule.{name}": value for name, value in SCHEDULE.items()}, "window_px": 64, "batch": 3}
OTSU = {"mpp": 0.45, "windows_per_store": 2, "store_window_px": 96, "mask_settings.max_share": 0.05}
ACTIVATION = {
    "mask_settings.clusters.beta": 0.1,
    "mask_settings.clusters.map_weight": 20.0,
    "mask_settings.clusters.n_clusters": 6,
    "mask_settings.clusters.seed": 1,
    "mask_settings.min_area_um2": 400.0,
    "mask_settings.max_hole_um2": 400.0,
    "mask_settings.min_density": 5.0,
}
MIN_AREA_UM2 = 45.0
STAGES = {"self_training.rounds": 2, "self_training.threshold": 0.2}
DETECTOR = {
    **{f"schedule.{name}": value for name, value in SCHEDULE.items()},
    **{f"augmentation.{name}": value for name, value in AUGMENTATION.items()},
    "n_rays": 12,
    "window_px": 128,
    "batch": 3,
}
EXPORT = {"input_px", "halo_px", "batch", "capacity", "threshold", "embedding", "any_window", "colour_share", "snap_um"}
NO_EFFECT = {
    "metrics": "figures for the card",
    "sources.0.mpp": "the scale that pictures are read at: tests/data",
    **{f"detector.export.{name}": "how the model is run: tests/export" for name in (*EXPORT, "refine")},
    **{
        f"{stage}.schedule.{name}": "tests/training/test_loop.py"
        for stage in ("activation", "detector")
        for name in ("save_every", "log_every", "validate_every")
    },
}
TRIED = {
    *(f"activation.{name}" for name in TRAINED),
    *OTSU,
    *ACTIVATION,
    "labels.min_area_um2",
    *STAGES,
    *(f"detector.{name}" for name in DETECTOR),
    "seed",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a picture of two nuclei, one of which has a hole, and a slide's store."""
    folder = tmp_path_factory.mktemp("psm")
    (folder / "images").mkdir()
    pixels = stained(np.random.default_rng(0))
    cv2.circle(pixels, (20, 32), 3, (230, 170, 205), -1)
    cv2.imwrite(str(folder / "images/P.png"), pixels[..., ::-1])
    draw_slide(folder / "S1")
    return folder


@pytest.fixture(scope="module")
def config(folder):
    (folder / "psm.yaml").write_text(CONFIG)
    small = ["schedule={steps: 2, warmup: 0.5}", "window_px=32", "batch=2"]
    return load_psm_config(folder / "psm.yaml", changes=[f"activation.{one}" for one in small])


def test_every_numeric_setting_is_either_tried_or_explained(config):
    assert {*numeric_settings(config)} == TRIED | NO_EFFECT.keys()


def weights_after(config, folder):
    """All tensors of the activation stage's method at the end of a run."""
    folder.mkdir(exist_ok=True)
    stage = ActivationStage(activation_config(config), folder / "run")
    torch.manual_seed(stage.config.seed)
    data, fabric = stage.read(print), Fabric(accelerator="cpu", devices=1)
    method = stage.build(data)
    batches = stage.batches(data, fabric.device)
    train(method, batches, stage.config.schedule, RunFolder(folder), fabric, seed=stage.config.seed)
    return method.state_dict()


@pytest.fixture(scope="module")
def plain(config, tmp_path_factory):
    """All tensors at the end of a run with unchanged settings."""
    return weights_after(config, tmp_path_factory.mktemp("activation"))


@pytest.mark.parametrize("name", [*TRAINED, "seed"])
def test_a_numeric_setting_changes_the_updates(config, plain, tmp_path, name):
    key, value = ("seed", 1) if name == "seed" else (f"activation.{name}", TRAINED[name])
    found = weights_after(with_setting(config, key, value), tmp_path)
    assert any(one.shape != plain[key].shape or not torch.equal(one, plain[key]) for key, one in found.items())


def masks_of(config, activation, folder):
    """Names and pixels of the masks that a masks stage writes; empty if the stage rejects all masks."""
    folder.mkdir()
    try:
        MasksStage(config, activation, folder).write(folder, lambda line: None)
    except ConfigError:
        return {}
    return {name: mask.tolist() for name, _, mask in read_pictures_and_masks(folder)}


@pytest.mark.parametrize("name", [*OTSU, *ACTIVATION])
def test_a_numeric_setting_changes_the_masks(config, folder, tmp_path, name):
    """Each setting is tested on a picture or on a slide's store; its change also makes the stage run again."""
    sources = (UnlabelledSource(images=folder / "images", mpp=0.5),)
    if name in ("windows_per_store", "store_window_px"):
        sources = (UnlabelledSource(store=folder / "S1/image-500nm.zarr"),)
    config = dataclasses.replace(config, sources=sources, windows_per_store=1, store_window_px=64)
    activation = None
    if name in ACTIVATION:
        torch.manual_seed(0)
        network, activation = ActivationNetwork("shallow_cnn"), tmp_path / "activation.pt"
        meta = {"kind": "activation", "backbone": "shallow_cnn", "mpp": 0.5, "config": {}, "colour": None}
        save_checkpoint(activation, Checkpoint(network.backbone.state_dict(), network.head.state_dict(), meta))
        config = dataclasses.replace(config, masks="activation")
        if name.endswith("beta"):
            config = with_setting(config, "mask_settings.clusters.features", "jet")
        if name.endswith("seed"):
            config = with_setting(config, "mask_settings.clusters.n_clusters", 6)
    changed = with_setting(config, name, {**OTSU, **ACTIVATION}[name])
    assert masks_of(changed, activation, tmp_path / "b") != masks_of(config, activation, tmp_path / "a")
    one, other = (MasksStage(each, activation, tmp_path).made_from() for each in (config, changed))
    assert one != other


def test_the_smallest_area_changes_the_labels(config):
    pixels = stained(np.random.default_rng(0))
    changed = with_setting(config, "labels.min_area_um2", MIN_AREA_UM2)
    assert not np.array_equal(*(split_instances(pixels[..., 1] < 110, pixels, one) for one in (config, changed)))


@pytest.mark.parametrize("name", STAGES)
def test_a_numeric_setting_changes_the_stages(config, tmp_path, name):
    config = with_setting(config, "self_training.rounds", 1)
    one, other = (
        [(stage.name, getattr(stage, "config", None)) for stage in PsmRecipe().stages(each, tmp_path)]
        for each in (config, with_setting(config, name, STAGES[name]))
    )
    assert one != other


@pytest.mark.parametrize("name", DETECTOR)
def test_a_numeric_setting_reaches_the_detector(config, tmp_path, name):
    """The effect of the setting on a detector is tested with the detector."""
    found = detector_config(with_setting(config, f"detector.{name}", DETECTOR[name]), tmp_path)
    assert found == with_setting(detector_config(config, tmp_path), name, DETECTOR[name])
    assert found != detector_config(config, tmp_path)
