"""The contract of backbones: shapes, strides, a gradient for every weight, and positions that
follow pixels.
"""

import re

import pytest
import torch

from muse_pipeline.models import BACKBONES
from muse_pipeline.models.base import HALF_PIXEL

with torch.device(
    "meta"
):  # without weights: collecting the tests would otherwise fill gigabytes with random numbers
    OURS = [name for name in BACKBONES.names() if BACKBONES[name]().lattice is HALF_PIXEL]
OF_EVERY_KIND = {
    re.sub(r"_\d+$", "", name): name for name in sorted(OURS, reverse=True)
}.values()  # the narrowest


# ViT-B has the code of ViT-S with four times its weights; networks for 512 px have the code of
# those for 224 px.
AGAIN = re.compile("vit_b|r50_512|vit_s_16_512")
EVERY = [
    pytest.param(name, marks=[pytest.mark.slow] * bool(AGAIN.search(name)))
    for name in BACKBONES.names()
]


@pytest.fixture(scope="module", params=EVERY)
def backbone(request):
    torch.manual_seed(0)
    return BACKBONES[request.param]().eval()


def test_the_map_is_at_stride_four_and_stages_are_as_declared(backbone):
    side, sizes = max(2 * backbone.stride_px, 64), backbone.stage_sizes
    pixels = torch.randint(0, 256, (2, 3, side, 2 * side)).float()
    with torch.no_grad():
        image = backbone.prepare(pixels, torch.eye(3, 4))
        features, maps = backbone(image), list(backbone.stage_maps(image))
    assert features.dense.shape == (2, backbone.channels, side // 4, side // 2)
    assert features.image.shape == (2, backbone.image_channels)
    assert features.dense.isfinite().all()
    assert [tuple(each.shape) for each in maps] == [
        (2, size.channels, side // size.stride_px, 2 * side // size.stride_px) for size in sizes
    ]
    assert len(sizes) >= 3, "region models read three stages"
    assert sorted(sizes, key=lambda size: size.stride_px) == list(sizes)
    assert all(each.isfinite().all() and each.std() > 0 for each in maps)


@pytest.mark.parametrize("name", OF_EVERY_KIND)
def test_our_own_see_the_same_in_windows_of_any_sides_that_move_by_the_total_stride(name):
    """Only features far from the border are compared; backbones with this property are run on parts
    of windows.
    """
    torch.manual_seed(0)
    backbone = BACKBONES[name]().eval()
    stride = backbone.stride_px
    margin = 12 * stride  # further than a pixel's influence reaches
    picture = torch.rand(1, 3, 2 * margin + 64 + stride, 2 * margin + 192)
    with torch.no_grad():
        whole = backbone(picture).dense
        part = backbone(picture[..., stride:, 3 * stride : -64]).dense
    first, down, right = margin // 4, stride // 4, 3 * stride // 4
    middle = part[..., first : first + 16, first : first + 8]
    moved = whole[..., first + down :, first + right :][..., :16, :8]
    assert torch.allclose(moved, middle, atol=1e-4)
