"""The first stage of PSM trains its network, either the small one or a registered backbone."""

import numpy as np
import pytest
import torch

from muse_pipeline.methods.psm.activation_map import (
    SAMPLE,
    ActivationNetwork,
    Clusters,
    ClusterSettings,
    clean,
)


@pytest.mark.parametrize(
    "name, channels",
    [
        ("shallow_cnn", 32),
        ("muse_compact_16", 16),
        pytest.param("muse_r50_224", 256, marks=pytest.mark.slow),
    ],
)
def test_any_backbone_with_a_stage_at_stride_four_can_be_looked_into(name, channels):
    torch.manual_seed(0)
    network = ActivationNetwork(name).eval()
    pixels = torch.randint(0, 256, (2, 3, 64, 96)).float()
    output, blocks = network.read_activations(pixels)
    assert torch.equal(output, network(pixels)[:, 0])
    assert {tuple(block.shape) for block in blocks} == {(2, channels, 16, 24)}
    assert all(gradient.abs().sum() > 0 for gradient in torch.autograd.grad(output.sum(), blocks))


def test_clusters_are_fitted_to_pixels_of_the_whole_slide():
    n = 3 * SAMPLE
    is_dark = np.arange(n) >= n - n // 6  # nuclei in the last crops only
    stains = np.where(is_dark[:, None], (1.2, 0.3), (0.1, 0.3)).astype(np.float32)
    pixels = np.full((n, 3), 128, np.uint8)
    clusters = Clusters(np.zeros(n, np.float32), pixels, stains, ClusterSettings())
    assert clusters.centres[clusters.foreground][1] == pytest.approx(1.2, abs=0.05)


def test_holes_are_filled_before_small_objects_are_dropped():
    """A ring is large enough with its hole alone; an object and a hole of other sizes stay."""
    mask = np.zeros((40, 40), bool)
    mask[2:10, 2:10] = True
    mask[4:8, 4:8] = False  # 48 px with a hole of 16 px
    mask[2:8, 20:26] = True
    mask[20:38, 20:38] = True
    mask[26:34, 26:34] = False
    cleaned = clean(mask, 0.49)
    assert cleaned[2:10, 2:10].all() and not cleaned[2:8, 20:26].any()
    assert not cleaned[26:34, 26:34].any() and cleaned[20:26, 20:38].all()
