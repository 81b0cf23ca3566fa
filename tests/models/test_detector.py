"""The network and the graph around it."""

import pytest
import torch

from muse_pipeline.models import BACKBONES
from muse_pipeline.models.colour import optical_density
from muse_pipeline.models.detector import DetectionGraph, NucleusDetector
from muse_pipeline.models.heads import DenseNuclei


@pytest.mark.parametrize("name", BACKBONES.names())
def test_every_backbone_gives_a_map_at_stride_four(name):
    torch.manual_seed(0)
    backbone = BACKBONES[name]().eval()
    side = 4 * backbone.stride_px
    with torch.no_grad():
        features = backbone(torch.rand(1, 3, side, 2 * side))
    assert features.shape == (1, backbone.out_channels, side // 4, side // 2)


@pytest.mark.parametrize("name", BACKBONES.names())
def test_every_backbone_moves_with_its_input(name):
    """A shift by the total stride moves the map and changes nothing far from the border."""
    torch.manual_seed(0)
    backbone = BACKBONES[name]().eval()
    stride = backbone.stride_px
    picture = torch.rand(1, 3, 832 + stride, 832 + stride)
    with torch.no_grad():
        first, second = backbone(picture[..., :832, :832]), backbone(picture[..., stride:, stride:])
    cells, middle = stride // 4, slice(96, 112)
    moved = first[..., 96 + cells : 112 + cells, 96 + cells : 112 + cells]
    assert torch.allclose(moved, second[..., middle, middle], atol=1e-4)


def test_optical_density_is_the_one_of_the_stain_fit():
    import numpy as np

    from muse_pipeline.tissue.macenko import optical_density as reference

    pixels = torch.arange(256, dtype=torch.uint8).repeat(3, 1)[None, :, :, None]
    density = optical_density(pixels, torch.eye(3, 4))[0, 0, :, 0]
    assert np.allclose(density.numpy(), np.minimum(reference(np.arange(256)), 5), atol=1e-5)


def test_the_colour_map_may_differ_by_window():
    pixels = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    maps = torch.stack([torch.eye(3, 4), 2 * torch.eye(3, 4)])
    both = optical_density(pixels, maps)
    for index in range(2):
        assert torch.allclose(both[index], optical_density(pixels, maps[index])[index], atol=1e-6)


class KnownMaps(torch.nn.Module):
    """Stands where the network stands and says what it was told."""

    def __init__(self, maps: DenseNuclei):
        super().__init__()
        self.maps = maps

    def forward(self, pixels, colour):
        return self.maps


def test_the_graph_reads_positions_classes_and_rays_at_peaks():
    centre = torch.full((1, 1, 8, 8), -9.0)
    centre[0, 0, 2, 3], centre[0, 0, 2, 4], centre[0, 0, 6, 6] = 3.0, 2.0, 0.5  # the second is no peak
    offset, label, rays = torch.zeros(1, 2, 8, 8), torch.zeros(1, 3, 8, 8), torch.ones(1, 4, 8, 8)
    offset[0, :, 2, 3] = torch.tensor([0.25, -0.5])
    label[0, 1, 2, 3], rays[0, 2, 2, 3] = 5.0, 7.0
    graph = DetectionGraph(KnownMaps(DenseNuclei(centre, offset, label, rays)), threshold=0.4, capacity=10)
    xy, score, prob, found = graph(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.eye(3, 4))
    assert (score > 0).sum() == 2
    assert xy[0, 0].tolist() == [(3.5 + 0.25) * 4, (2.5 - 0.5) * 4]
    assert xy[0, 1].tolist() == [26, 26]
    assert prob[0, 0].argmax() == 1
    assert found[0, 0].tolist() == [1, 1, 7, 1]
    assert score[0, 0] > score[0, 1] > 0.4


def test_a_full_window_fills_every_slot():
    generator = torch.Generator().manual_seed(0)
    maps = NucleusDetector("compact_16", 2, 8)(torch.zeros(1, 3, 64, 64), torch.eye(3, 4))
    noisy = maps._replace(centre=torch.randn(maps.centre.shape, generator=generator) + 5)
    _, score, _, _ = DetectionGraph(KnownMaps(noisy), 0.4, 5)(torch.zeros(1), torch.eye(3, 4))
    assert (score > 0).sum() == 5
