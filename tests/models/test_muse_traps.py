"""Mistakes that are easily made in MUSE networks: each one must cause deviations above the parity
test's limit.
"""

import pytest
import torch
from official_fixtures import deviations, load_expected, load_official, needs_fixtures, run_backbone
from torch import nn
from torch.nn import functional

from muse_pipeline.models import BACKBONES
from muse_pipeline.models import muse as decoder
from muse_pipeline.models.base import ALIGNED_CORNERS, HALF_PIXEL

VARIANT, NAME = "vit_s_16_224", "muse_vit_s_16_224"
LIMIT_STD = 1e-4


class NormsLastTapOnly(nn.Module):
    """Passes the first three taps through and normalises the fourth."""

    def __init__(self, norm):
        super().__init__()
        self.norm, self.calls = norm, 0

    def forward(self, tokens):
        self.calls += 1
        return self.norm(tokens) if self.calls % 4 == 0 else tokens


def norm_last_tap_only(network, patch):
    encoder = network.encoder["encoder"]
    patch.setitem(encoder._modules, "norm", NormsLastTapOnly(encoder.norm))


def half_pixel_resize(network, patch):
    def resize(x, size):
        return functional.interpolate(x, size=size, mode="bilinear", align_corners=False)

    patch.setattr(decoder, "resize", resize)
    patch.setattr("muse_pipeline.models.muse.resize", resize)


def skip_before_decoder(network, patch):
    def forward(self, coarse, skip):
        merged = torch.cat((skip, decoder.resize(coarse, skip.shape[-2:])), 1)
        return self.last_block(self.first_block(merged))

    patch.setattr(decoder.UpMerge, "forward", forward)


def earlier_taps(network, patch):
    patch.setattr(decoder, "TAPS", (1, 4, 7, 10))


def tanh_gelu(network, patch):
    for block in network.encoder["encoder"].blocks:
        patch.setitem(block.mlp._modules, "act", nn.GELU("tanh"))


# Mistake -> measured deviations of the map and of nuclei's vectors, in standard deviations.
MISTAKES = {
    norm_last_tap_only: (5.0, 3.9),
    half_pixel_resize: (2.8, 2.9),
    skip_before_decoder: (3.7, 2.9),
    earlier_taps: (1.7, 1.5),
    tanh_gelu: (7.9e-4, 1.1e-3),
}


@pytest.fixture(scope="module")
def network():
    return load_official(VARIANT, NAME)


@needs_fixtures
@pytest.mark.parametrize("plant", MISTAKES, ids=lambda plant: plant.__name__)
def test_a_planted_mistake_leaves_the_limit(network, monkeypatch, plant):
    plant(network, monkeypatch)
    found = deviations(run_backbone(network, 224), load_expected(VARIANT), ALIGNED_CORNERS)
    assert min(found) > LIMIT_STD
    assert found == pytest.approx(MISTAKES[plant], rel=0.2)


@needs_fixtures
def test_a_table_that_is_not_resampled_leaves_the_limit():
    network = load_official(VARIANT, NAME, always_resample=False)
    found = deviations(run_backbone(network, 224), load_expected(VARIANT), ALIGNED_CORNERS)
    assert found == pytest.approx((0.11, 0.18), rel=0.2)


@needs_fixtures
def test_the_other_read_out_rule_leaves_the_limit(network):
    of_map, of_nuclei = deviations(run_backbone(network, 224), load_expected(VARIANT), HALF_PIXEL)
    assert of_map <= LIMIT_STD < of_nuclei


@needs_fixtures
def test_without_a_mistake_the_same_network_is_within_the_limit(network):
    assert (
        max(deviations(run_backbone(network, 224), load_expected(VARIANT), ALIGNED_CORNERS))
        <= LIMIT_STD
    )


def test_what_no_comparison_shows_is_stated():
    """An eps of 1e-5 in LayerNorm would change features by only 1e-5, so its value is checked
    here.
    """
    norms = [
        module
        for module in BACKBONES["muse_vit_s_16_224"]().modules()
        if isinstance(module, nn.LayerNorm)
    ]
    assert len(norms) == 25
    assert {norm.eps for norm in norms} == {1e-6}
