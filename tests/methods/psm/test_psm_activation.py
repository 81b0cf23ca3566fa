"""The first stage of PSM trains its network, either the small one or a registered backbone."""

import numpy as np
import pytest
import torch

from muse_pipeline.core.errors import ConfigError
from muse_pipeline.data.unlabelled import Picture, UnlabelledWindows
from muse_pipeline.methods.psm.activation_map import ActivationNetwork
from muse_pipeline.methods.psm.run import PriorSelfActivation


def windows():
    generator = np.random.default_rng(0)
    pixels = generator.normal(200, 20, (160, 160, 3)).clip(0, 255).astype(np.uint8)
    for x, y in generator.integers(8, 152, (40, 2)):
        pixels[y - 4 : y + 4, x - 4 : x + 4] = (90, 40, 120)
    return UnlabelledWindows([Picture(pixels)], 32, 4, 0, torch.device("cpu"))


def test_the_difference_of_half_turns_falls():
    torch.manual_seed(0)
    method, batches = PriorSelfActivation(ActivationNetwork("shallow_cnn")), windows()
    optimiser = torch.optim.AdamW(method.parameters(), lr=2e-3)
    seen = []
    for step in range(18):
        torch.manual_seed(step)
        loss = method.losses(batches(step % 3), "model", 0.0)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        seen.append(float(loss.detach()))
    assert np.mean(seen[-4:]) < 0.85 * np.mean(seen[:4])
    assert method.trained() is method.network


@pytest.mark.parametrize(
    ("name", "channels"),
    [("shallow_cnn", 32), ("muse_compact_16", 16), pytest.param("muse_r50_224", 256, marks=pytest.mark.slow)],
)
def test_any_backbone_with_a_stage_at_stride_four_can_be_looked_into(name, channels):
    torch.manual_seed(0)
    network = ActivationNetwork(name).eval()
    pixels = torch.randint(0, 256, (2, 3, 64, 96)).float()
    output, blocks = network.read_activations(pixels)
    assert torch.equal(output, network(pixels)[:, 0])
    assert {tuple(block.shape) for block in blocks} == {(2, channels, 16, 24)}
    assert all(gradient.abs().sum() > 0 for gradient in torch.autograd.grad(output.sum(), blocks))


def test_a_backbone_without_such_a_stage_is_rejected():
    with torch.device("meta"), pytest.raises(ConfigError, match="stride 4"):
        ActivationNetwork("muse_vit_s_16_224")
