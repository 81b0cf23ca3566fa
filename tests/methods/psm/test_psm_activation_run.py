"""The first stage as a run: a resumed run ends with the same weights, and its checkpoint can be
loaded.
"""

import dataclasses

import numpy as np
import pytest
import torch
from labelled import CPU
from PIL import Image

from muse_pipeline.core.errors import CheckpointError, ConfigError
from muse_pipeline.data.unlabelled import UnlabelledSource
from muse_pipeline.methods.psm.activation_map import PseudoMasker
from muse_pipeline.methods.psm.run import ActivationConfig, ActivationStage, load_activation
from muse_pipeline.training.method import Schedule
from muse_pipeline.training.run import Options


@pytest.fixture
def config(tmp_path):
    (tmp_path / "images").mkdir()
    generator = np.random.default_rng(0)
    for index in range(2):
        pixels = generator.integers(0, 256, (80, 90, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"images/{index}.png")
    schedule = Schedule(steps=4, save_every=2, log_every=1)
    source = UnlabelledSource(images=tmp_path / "images", mpp=0.5)
    return ActivationConfig(sources=(source,), schedule=schedule, window_px=32, batch=2)


def test_a_run_that_was_killed_ends_in_the_same_weights(config, tmp_path):
    def kill(done, *_):
        if done == 3:
            raise KeyboardInterrupt

    whole = load_activation(ActivationStage(config, tmp_path / "whole").run(CPU))
    with pytest.raises(KeyboardInterrupt):
        ActivationStage(config, tmp_path / "killed").run(Options(accelerator="cpu", progress=kill))
    resumed = load_activation(ActivationStage(config, tmp_path / "killed").run(CPU))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_the_checkpoint_makes_masks(config, tmp_path):
    path = ActivationStage(config, tmp_path / "run").run(CPU)
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    masker = PseudoMasker(load_activation(path), [pixels], 0.5)
    assert masker(pixels).shape == (64, 64) and masker.activation is not None


def test_another_configuration_is_rejected_unless_started_over(config, tmp_path):
    ActivationStage(config, tmp_path / "run").run(CPU)
    other = dataclasses.replace(config, batch=3)
    with pytest.raises(CheckpointError, match="setting 'batch'"):
        ActivationStage(other, tmp_path / "run").run(CPU)
    ActivationStage(other, tmp_path / "run").run(Options(accelerator="cpu", start_over=True))


def test_mistakes_are_reported_before_anything_is_trained(config, tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'shallow_cnn'"):
        ActivationStage(dataclasses.replace(config, backbone="shallow_cn"), tmp_path / "run").run(
            CPU
        )
    with pytest.raises(ConfigError, match="multiple"):
        ActivationStage(dataclasses.replace(config, window_px=40), tmp_path / "run").run(CPU)
    (tmp_path / "foreign.pt").write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError):
        load_activation(tmp_path / "foreign.pt")
    assert not (tmp_path / "run").exists()
