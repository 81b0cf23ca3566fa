"""The first stage as a run: a resumed run ends with the same weights, and its checkpoint can be
loaded.
"""

import numpy as np
import pytest
from labelled import CPU
from PIL import Image

from muse_pipeline.data.unlabelled import UnlabelledSource
from muse_pipeline.methods.psm.activation_map import PseudoMasker
from muse_pipeline.methods.psm.run import ActivationConfig, ActivationStage, load_activation
from muse_pipeline.training.method import Schedule


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


def test_the_checkpoint_makes_masks(config, tmp_path):
    path = ActivationStage(config, tmp_path / "run").run(CPU)
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    masker = PseudoMasker(load_activation(path), [pixels], 0.5)
    assert masker(pixels).shape == (64, 64) and masker.activation is not None
