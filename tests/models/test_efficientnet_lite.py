"""EfficientNet-Lite compared with maps of the package `efficientnet-lite-pytorch`, and published
files as a start.

`efficientnet_lite.npz` contains values of these maps, by network, with the weights and the picture
drawn here.
"""

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from muse_pipeline.core.errors import CheckpointError
from muse_pipeline.models import BACKBONES
from muse_pipeline.models.efficientnet_lite import PREFIX
from muse_pipeline.training.checkpoint import load_backbone, read_weights

EXPECTED = np.load(Path(__file__).with_name("efficientnet_lite.npz"))
LIMIT = 1e-5  # of the largest value
SIDE = 96  # px of the drawn picture
STEP, MOST = 37, 400  # every how manyth value of a map is kept, and how many at most
CLASSIFIER = {"_conv_head.weight": torch.ones(2, 2, 1, 1), "_fc.weight": torch.ones(2, 2)}


def draw(name, like):
    """Weights that depend only on their name and shape."""
    noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(tuple(like.shape))
    if like.ndim > 1:
        noise *= (like.ndim == 2 or like.numel() // len(like)) ** -0.5
    elif name.endswith("running_var") or name.endswith(".weight"):
        noise = 1 + 0.1 * np.abs(noise)
    return torch.from_numpy(np.asarray(noise)).to(like.dtype)


def drawn(state):
    return {name: draw(name, value) for name, value in state.items()}


def draw_picture():
    return draw("picture", torch.empty(1, 3, SIDE, SIDE)) * 27**0.5


def published(name):
    """Drawn weights of a network's encoder, under the names of the published files."""
    with torch.device("meta"):
        state = BACKBONES[name]().encoder.state_dict()
    return drawn(state) | CLASSIFIER


def write(path, state):
    torch.save(state, path)
    return path


@torch.inference_mode()
def mirrored_maps(backbone):
    return [
        each.flip(2, 3).numpy() for each in backbone.eval().stage_maps(draw_picture().flip(2, 3))
    ]


@pytest.mark.parametrize("number", range(3))
def test_same_maps_as_the_package(number, tmp_path):
    name = f"efficientnet_lite{number}"
    backbone = BACKBONES[name]()
    load_backbone(backbone, write(tmp_path / "lite.pth", published(name)))
    maps = mirrored_maps(backbone)
    assert [each.shape[-1] for each in maps] == [SIDE // stride for stride in (2, 4, 8, 16, 32)]
    for stride, found in zip((2, 4, 8, 16, 32), maps, strict=True):
        expected = EXPECTED[f"{number} stride {stride}"]
        assert (
            np.abs(found.ravel()[::STEP][:MOST] - expected).max() <= LIMIT * np.abs(expected).max()
        )


def test_a_published_file_gives_the_encoder_and_leaves_the_decoder(tmp_path):
    path = write(tmp_path / "lite0.pth", published("efficientnet_lite0"))
    backbone = BACKBONES["efficientnet_lite0_16"]()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    load_backbone(backbone, path)
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, before[name]) != name.startswith(PREFIX) or "num_batches" in name
    assert "lite0.pth, trained on ImageNet-1k" in read_weights(path).meta["origins"]["encoder"]


@pytest.mark.parametrize(
    "change, name, message",
    [
        (
            lambda state: state,
            "efficientnet_lite1_16",
            r"does not fit efficientnet_lite1_16.*_blocks\.",
        ),
        (lambda state: state, "muse_compact_16", "does not fit muse_compact_16"),
        (
            lambda state: state.pop("_blocks.3._bn1.bias"),
            "efficientnet_lite0",
            r"missing encoder._blocks.3._bn1.bias",
        ),
        (
            lambda state: state["_bn0.bias"].fill_(np.inf),
            "efficientnet_lite0",
            "_bn0.bias.* not finite",
        ),
    ],
)
def test_a_published_file_must_fit(change, name, message, tmp_path):
    state = published("efficientnet_lite0")
    change(state)
    path = write(tmp_path / "lite.pth", state)
    with pytest.raises(CheckpointError, match=message):
        load_backbone(BACKBONES[name](), path)
