"""The generator: its modulated convolution follows the published formula, and its pictures depend
on all inputs.
"""

import pytest
import torch
from torch.nn import functional

from muse_pipeline.methods.unit.config import GeneratorSettings
from muse_pipeline.methods.unit.translation import CoModulatedGenerator, ModulatedConv

TINY = GeneratorSettings(
    base=4,
    most=8,
    levels=2,
    noise_dim=6,
    style_dim=5,
    code_dim=7,
    mapping_layers=2,
    skip_stride=2,
)


def inputs(batch=2, height=16, width=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = 2 * torch.rand(batch, 3, height, width, generator=generator) - 1
    noise, grain = (
        torch.randn(batch, 6, generator=generator),
        torch.randn(batch, 1, height, width, generator=generator),
    )
    return mask, noise, grain


def test_it_is_the_convolution_with_modulated_and_demodulated_weights():
    torch.manual_seed(0)
    conv = ModulatedConv(5, 4, 3)
    x, style = torch.randn(2, 5, 9, 7), torch.randn(2, 3)
    for one, own, found in zip(x, style, conv(x, style), strict=True):
        weight = conv.affine(own)[None, :, None, None] * conv.weight
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        assert torch.allclose(found, functional.conv2d(one[None], weight, padding=1)[0], atol=1e-5)


def test_equal_inputs_give_equal_pictures_and_each_of_them_counts():
    torch.manual_seed(0)
    network = CoModulatedGenerator(TINY).eval()
    for block in network.refine:
        torch.nn.init.constant_(block.strength, 0.5)  # the initial value is 0
    mask, noise, grain = inputs()
    others = inputs(seed=1)
    with torch.no_grad():
        picture = network(mask, noise, grain)
        assert torch.equal(picture, network(mask, noise, grain))
        for index in range(3):
            changed = [mask, noise, grain]
            changed[index] = others[index]
            assert (network(*changed) - picture).abs().mean() > 0.1


@pytest.mark.parametrize("height, width", [(4, 4), (16, 24), (36, 8)])
def test_any_multiple_of_the_stride_gives_pixels_of_the_masks_size(height, width):
    network = CoModulatedGenerator(TINY)
    picture = network(*inputs(2, height, width))
    assert picture.shape == (2, 3, height, width)
    assert picture.min() >= 0 and picture.max() <= 255
    assert network.stride_px == 4


def test_the_masks_code_enters_every_style():
    """This is co-modulation: a change of the mask's code alone, without its maps, changes the
    picture.
    """
    torch.manual_seed(0)
    network = CoModulatedGenerator(TINY).eval()
    mask, noise, grain = inputs()
    with torch.no_grad():
        before = network(mask, noise, grain)
        network.code[0].bias += 1
        assert (network(mask, noise, grain) - before).abs().mean() > 0.1
