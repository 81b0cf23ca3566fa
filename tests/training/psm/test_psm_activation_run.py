"""The first stage as a run: stopped and resumed it ends in the same weights, and its checkpoint loads."""

import dataclasses

import numpy as np
import pytest
import torch
from labelled import CPU
from PIL import Image

from muse_pipeline.core.errors import CheckpointError, ConfigError
from muse_pipeline.data.unlabelled import UnlabelledSource
from muse_pipeline.models.activation import load_activation
from muse_pipeline.proposals.activation_map import PseudoMasker
from muse_pipeline.training.psm.activation import ActivationConfig, train_activation
from muse_pipeline.training.running import Running
from muse_pipeline.training.schedule import Schedule


@pytest.fixture
def config(tmp_path):
    (tmp_path / "images").mkdir()
    generator = np.random.default_rng(0)
    for index in range(2):
        pixels = generator.integers(0, 256, (80, 90, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"images/{index}.png")
    schedule = Schedule(steps=4, save_every=2, log_every=1)
    source = UnlabelledSource(images=tmp_path / "images", mpp=0.5)
    return ActivationConfig(sources=(source,), task="rotation", schedule=schedule, window_px=32, batch=2)


def test_a_run_that_was_killed_ends_in_the_same_weights(config, tmp_path):
    def kill(done, losses):
        if done == 3:
            raise KeyboardInterrupt

    whole = load_activation(train_activation(config, tmp_path / "whole", CPU))
    with pytest.raises(KeyboardInterrupt):
        train_activation(config, tmp_path / "killed", Running(accelerator="cpu", progress=kill))
    resumed = load_activation(train_activation(config, tmp_path / "killed", CPU))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_the_checkpoint_makes_masks(config, tmp_path):
    path = train_activation(config, tmp_path / "run", CPU)
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    masker = PseudoMasker.load(path, [pixels], 0.5)
    assert masker(pixels).shape == (64, 64) and masker.activation is not None


def test_another_configuration_is_refused_unless_started_over(config, tmp_path):
    train_activation(config, tmp_path / "run", CPU)
    other = dataclasses.replace(config, task="similarity")
    with pytest.raises(CheckpointError, match="setting 'task'"):
        train_activation(other, tmp_path / "run", CPU)
    train_activation(other, tmp_path / "run", Running(accelerator="cpu", start_over=True))


def test_mistakes_are_said_before_anything_is_trained(config, tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'rotation'"):
        train_activation(dataclasses.replace(config, task="rotations"), tmp_path / "run", CPU)
    with pytest.raises(ConfigError, match="multiple of 32"):
        train_activation(dataclasses.replace(config, window_px=40), tmp_path / "run", CPU)
    (tmp_path / "foreign.pt").write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError):
        load_activation(tmp_path / "foreign.pt")
    assert not (tmp_path / "run").exists()
