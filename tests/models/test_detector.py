"""A detector's heads and network, and the graph that is exported."""

import pytest
import torch

from muse_pipeline.models.base import recoloured, transformed_density
from muse_pipeline.models.detector import (
    DenseHead,
    DetectionGraph,
    NucleusDetector,
    NucleusHead,
    NucleusMaps,
)


def test_transformed_density_is_the_one_of_the_stain_fit():
    import numpy as np

    from muse_pipeline.tissue.stain import optical_density as reference

    pixels = torch.arange(256, dtype=torch.uint8).repeat(3, 1)[None, :, :, None]
    density = transformed_density(pixels, torch.eye(3, 4))[0, 0, :, 0]
    assert np.allclose(density.numpy(), np.minimum(reference(np.arange(256)), 5), atol=1e-5)


def test_the_colour_map_may_differ_by_window():
    pixels = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    maps = torch.stack([torch.eye(3, 4), 2 * torch.eye(3, 4)])
    both = transformed_density(pixels, maps)
    for index in range(2):
        assert torch.allclose(
            both[index], transformed_density(pixels, maps[index])[index], atol=1e-6
        )


@pytest.mark.parametrize("colour", [torch.eye(3, 4), torch.eye(3, 4)[None]])
def test_pale_tissue_keeps_its_density_in_half_precision(colour):
    pixels = torch.arange(200, 256.0).expand(1, 3, 1, -1)
    with torch.autocast("cpu", torch.bfloat16):
        density, same = transformed_density(pixels, colour), recoloured(pixels, colour)
    exact = -torch.log((pixels + 1) / 256)
    assert torch.allclose(density.float(), exact, rtol=0.01)
    assert torch.allclose(same.float(), pixels, atol=0.5)


class KnownHead(DenseHead):
    """Predicts the given maps for any features."""

    propose, describe = (
        NucleusHead.propose,
        NucleusHead.describe,
    )  # only `locate` is that of the dense head

    def __init__(self, maps: NucleusMaps):
        super().__init__(4, maps.label.shape[1], maps.rays.shape[1])
        self.maps = maps

    def forward(self, features):
        return self.maps


class KnownMaps(torch.nn.Module):
    """A replacement for the network, which predicts the given maps."""

    def __init__(self, maps: NucleusMaps):
        super().__init__()
        self.head = KnownHead(maps)

    def features(self, pixels, colour):
        return None

    def propose(self, dense):
        return self.head.propose(dense)


def test_the_dense_head_states_the_same_of_a_few_cells_as_of_all():
    head = DenseHead(8, 3, 16).eval()
    features = torch.randn(2, 8, 6, 7, generator=torch.Generator().manual_seed(0))
    maps = head(features)
    score, located, output = head.propose(features)
    assert torch.allclose(score, head.scores(maps), atol=1e-6)
    assert torch.allclose(located, torch.cat((maps.centre, maps.offset), 1), atol=1e-5)
    cells = torch.tensor([[3, 0, 41], [7, 5, 6]])  # cells of the two windows
    for found, known in zip(
        head.describe(output[cells + torch.tensor([[0], [42]])]), maps[2:], strict=True
    ):
        wanted = [
            of_window[:, few].T for of_window, few in zip(known.flatten(2), cells, strict=True)
        ]
        assert torch.allclose(found, torch.stack(wanted), atol=1e-6)


def test_the_position_of_a_nucleus_is_the_mean_of_what_the_cells_beside_it_state_of_it():
    located = torch.zeros(2, 3, 6, 8)
    located[:, 0] = -30.0
    located[1, :, 2, 3] = torch.tensor([3.0, 0.25, -0.5])
    located[1, :, 2, 4] = torch.tensor([2.0, -0.25, 0.0])
    located[1, :, 2, 2] = torch.tensor([2.5, -0.5, 0.0])  # points to a different nucleus
    located[0, :, 5, 0] = torch.tensor([1.0, 0.5, 0.25])  # no other cell points to its nucleus
    positions = DenseHead(8, 3, 16).locate(located, torch.tensor([[5 * 8, 0], [2 * 8 + 3, 7]]))
    first, second = torch.tensor([3.0, 2.0]).sigmoid() ** 4
    wanted = (first * torch.tensor([3.75, 2.0]) + second * torch.tensor([4.25, 2.5])) / (
        first + second
    )
    assert torch.allclose(positions[1, 0], wanted, atol=1e-5)
    assert torch.allclose(positions[0, 0], torch.tensor([1.0, 5.75]), atol=1e-5)


def test_the_graph_reads_positions_classes_and_rays_at_peaks():
    centre = torch.full((1, 1, 8, 8), -9.0)
    centre[0, 0, 2, 3], centre[0, 0, 2, 4], centre[0, 0, 6, 6] = (
        3.0,
        2.0,
        0.5,
    )  # the second cell is not a peak
    offset, label, rays = torch.zeros(1, 2, 8, 8), torch.zeros(1, 3, 8, 8), torch.ones(1, 4, 8, 8)
    offset[0, :, 2, 3], offset[0, :, 2, 4] = (
        torch.tensor([0.25, -0.5]),
        torch.tensor([-0.75, -0.5]),
    )  # both point to the same position
    label[0, 1, 2, 3], rays[0, 2, 2, 3] = 5.0, 7.0
    graph = DetectionGraph(
        KnownMaps(NucleusMaps(centre, offset, label, rays)), threshold=0.4, capacity=10
    )
    xy, score, prob, found = graph(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.eye(3, 4))
    assert (score > 0).sum() == 2
    assert xy[0, 0].tolist() == pytest.approx([(3.5 + 0.25) * 4, (2.5 - 0.5) * 4])
    assert xy[0, 1].tolist() == pytest.approx([26, 26])
    assert prob[0, 0].argmax() == 1
    assert found[0, 0].tolist() == [1, 1, 7, 1]
    assert score[0, 0] > score[0, 1] > 0.4


def test_a_full_window_fills_every_slot():
    generator = torch.Generator().manual_seed(0)
    maps = NucleusDetector("muse_compact_16", "dense", 2, 8)(
        torch.zeros(1, 3, 64, 64), torch.eye(3, 4)
    )
    noisy = maps._replace(centre=torch.randn(maps.centre.shape, generator=generator) + 5)
    _, score, _, _ = DetectionGraph(KnownMaps(noisy), 0.4, 5)(torch.zeros(1), torch.eye(3, 4))
    assert (score > 0).sum() == 5
