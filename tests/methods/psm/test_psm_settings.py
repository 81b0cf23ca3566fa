"""Every numeric setting of PSM changes the batches, the updates or the files of its stage."""

import dataclasses

import cv2
import numpy as np
import pytest
import torch
import yaml
from every_setting import (
    REPORTS,
    SCHEDULE,
    Kind,
    numbers_in,
    other_value,
    parts_of_step,
    with_setting,
)
from pretraining import draw_slide
from test_psm import load_psm_config
from test_psm_stages import stained
from tiny_runs import PSM as CONFIG

from muse_pipeline.core.errors import ConfigError
from muse_pipeline.data.unlabelled import UnlabelledSource
from muse_pipeline.methods.psm import run as psm_run
from muse_pipeline.methods.psm.activation_map import ActivationNetwork
from muse_pipeline.methods.psm.config import DetectorSettings
from muse_pipeline.methods.psm.run import (
    PseudoMaskStage,
    PsmRecipe,
    configure_detector,
    read_pictures_and_masks,
)
from muse_pipeline.training.checkpoint import Checkpoint, save_checkpoint

OTSU = {"mpp": 0.45, "windows_per_store": 2}
ACTIVATION = {
    "clusters.beta": 0.1,
    "clusters.n_clusters": 20,
}
STAGES = {"self_training.rounds": 2, "self_training.threshold": 0.2}
TRIED = {*OTSU, *ACTIVATION, *STAGES, "seed"}
NETWORKS = ("activation.", "detector.")  # sections of which every setting is tried
NO_EFFECT = {"sources.0.mpp": "the scale that pictures are read at: tests/data"}


def activation(stages, read):
    return parts_of_step(stages[0], read)


SMALL = {"window_px": 32, "batch": 2}
SETTINGS = Kind(
    {
        **yaml.safe_load(CONFIG),
        "method": "psm",
        "masks": "activation",
        "activation": {**SMALL, "schedule": SCHEDULE},
    },
    activation,
    "activation.schedule",
    {"activation.window_px": 64, "seed": 1},
    {f"activation.{name}": reason for name, reason in REPORTS.items()},
    "activation.",
)


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
    return load_psm_config(folder / "psm.yaml")


def test_every_numeric_setting_is_either_tried_or_explained(config):
    assert {
        name for name, _ in numbers_in(config) if not name.startswith(NETWORKS)
    } == TRIED | NO_EFFECT.keys()


@pytest.mark.parametrize("name", SETTINGS.names)
def test_every_setting_of_the_activation_stage_acts(folder, name):
    assert SETTINGS.difference(name, folder) is not None


def masks_of(config, activation, folder):
    """Names and pixels of the masks that a masks stage writes; empty if the stage rejects all
    masks.
    """
    folder.mkdir()
    try:
        PseudoMaskStage(config, activation, folder).write(folder, lambda line: None)
    except ConfigError:
        return {}
    return {name: mask.tolist() for name, _, mask in read_pictures_and_masks(folder)}


@pytest.mark.parametrize("name", [*OTSU, *ACTIVATION])
def test_a_numeric_setting_changes_the_masks(config, folder, tmp_path, name, monkeypatch):
    """Each setting is tested on a picture or on a slide's store; its change also makes the stage
    run again.
    """
    sources = (UnlabelledSource(images=folder / "images", mpp=0.5),)
    monkeypatch.setattr(psm_run, "STORE_WINDOW_PX", 64)  # the store is smaller than 512 px
    if name == "windows_per_store":
        sources = (UnlabelledSource(store=folder / "S1/image-500nm.zarr"),)
    config = dataclasses.replace(config, sources=sources, windows_per_store=1)
    activation = None
    if name in ACTIVATION:
        torch.manual_seed(0)
        network, activation = ActivationNetwork("shallow_cnn"), tmp_path / "activation.pt"
        meta = {
            "kind": "activation",
            "backbone": "shallow_cnn",
            "mpp": 0.5,
            "config": {},
            "colour": None,
        }
        save_checkpoint(
            activation, Checkpoint(network.backbone.state_dict(), network.head.state_dict(), meta)
        )
        config = dataclasses.replace(config, masks="activation")
        if name.endswith("beta"):
            config = with_setting(config, "clusters.features", "jet")
    changed = with_setting(config, name, {**OTSU, **ACTIVATION}[name])
    assert masks_of(changed, activation, tmp_path / "b") != masks_of(
        config, activation, tmp_path / "a"
    )
    one, other = (
        PseudoMaskStage(each, activation, tmp_path).made_from() for each in (config, changed)
    )
    assert one != other


@pytest.mark.parametrize("name", STAGES)
def test_a_numeric_setting_changes_the_stages(config, tmp_path, name):
    config = with_setting(config, "self_training.rounds", 1)
    one, other = (
        [
            (stage.name, getattr(stage, "config", None))
            for stage in PsmRecipe().stages(each, tmp_path)
        ]
        for each in (config, with_setting(config, name, STAGES[name]))
    )
    assert one != other


@pytest.mark.parametrize("name", [name for name, _ in numbers_in(DetectorSettings())])
def test_a_numeric_setting_reaches_the_detector(config, tmp_path, name):
    """The effect of the setting on a detector is tested with the detector."""
    value = other_value(name, dict(numbers_in(config.detector))[name] or 0)
    found = configure_detector(with_setting(config, f"detector.{name}", value), tmp_path)
    assert found == with_setting(configure_detector(config, tmp_path), name, value)
    assert found != configure_detector(config, tmp_path)
