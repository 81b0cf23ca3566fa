"""Six variants compared with results of the authors' own code, with generated instead of trained
weights.
"""

import numpy as np
import pytest
import torch
from official_fixtures import (
    deviations,
    load_expected,
    load_official,
    make_teacher,
    needs_fixtures,
    run_backbone,
)

pytestmark = needs_fixtures
LIMIT_STD = 1e-4

# (variant, backbone into which it is loaded, number of entries, number of learnable parameters)
VARIANTS = [
    ("vit_s_16_224", "muse_vit_s_16_224", 232, 31_070_784),
    pytest.param(
        "vit_s_16_224_at512", "muse_vit_s_16_224", 232, 31_070_784, marks=pytest.mark.slow
    ),
    pytest.param("vit_s_16_512", "muse_vit_s_16_512", 232, 31_388_736, marks=pytest.mark.slow),
    ("vit_s_16_512_from224pos", "muse_vit_s_16_512", 232, 31_388_736),
    pytest.param("vit_b_16_224", "muse_vit_b_16_224", 232, 123_409_536, marks=pytest.mark.slow),
    ("r50_224", "muse_r50_224", 396, 86_435_392),
]


@pytest.mark.parametrize("variant, name, n_entries, n_parameters", VARIANTS)
def test_same_features_as_the_authors_code(variant, name, n_entries, n_parameters):
    network, expected = load_official(variant, name), load_expected(variant)
    assert len(make_teacher(variant)) == len(network.state_dict()) == n_entries
    assert sum(parameter.numel() for parameter in network.parameters()) == n_parameters

    side = 4 * int(expected["feature_map_shape"][-1])
    features = run_backbone(network, side)
    assert tuple(features.dense.shape) == tuple(expected["feature_map_shape"])
    assert features.dense.shape[1] == network.channels
    of_map, of_nuclei = deviations(features, expected, network.lattice)
    assert of_map <= LIMIT_STD
    assert of_nuclei <= LIMIT_STD
    assert np.allclose(features.dense[0, 0, 0], expected["feature_map_row0_ch0"], atol=1e-4)
    assert np.allclose(
        features.dense.double().mean((0, 2, 3)), expected["feature_map_channel_mean"], atol=1e-5
    )

    image = expected[
        "image_feature_cls" if "image_feature_cls" in expected else "image_feature_gap"
    ]
    assert features.image.shape == (1, network.image_channels)
    assert np.abs(features.image.numpy() - image).max() <= LIMIT_STD * image.std()

    if "pos_embed_after_load_first8ch" in expected:
        table = network.encoder["encoder"].pos_embed.detach()[..., :8].numpy()
        assert np.abs(table - expected["pos_embed_after_load_first8ch"]).max() <= 1e-5


def test_the_input_and_the_last_tap_are_the_authors():
    network, expected = (
        load_official("vit_s_16_224", "muse_vit_s_16_224"),
        load_expected("vit_s_16_224"),
    )
    pixels = torch.from_numpy(expected["image_u8"]).permute(2, 0, 1)[None]
    assert np.abs(network.prepare(pixels, torch.eye(3, 4)).numpy() - expected["input"]).max() < 1e-5
    with torch.inference_mode():
        taps, _ = network.encoder["encoder"](torch.from_numpy(expected["input"]))
    reference = expected["encoder_last_first16ch"]
    assert np.abs(taps[-1][:, :16].numpy() - reference).max() <= LIMIT_STD * reference.std()
