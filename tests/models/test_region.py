"""Side maps at three scales, their fusion, and the graph around them."""

import pytest
import torch

from muse_pipeline.models.region import RegionGraph, RegionNetwork

IDENTITY = torch.eye(3, 4)


def pixels(side: int = 64) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, side, 2 * side), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("backbone", ["muse_compact_16", "shallow_cnn", "vgg16_3_stages"])
@pytest.mark.parametrize("fusion", [(0.3, 0.3, 0.4), (0.2, 0.35, 0.45)])
def test_the_fused_map_is_the_weighted_mean_of_three_maps_on_cells_of_4_px(backbone, fusion):
    torch.manual_seed(0)
    network = RegionNetwork(backbone, 3, fusion).eval()
    with torch.no_grad():
        maps = network(pixels().float(), IDENTITY)
    assert [side.shape for side in maps.sides] == [(2, 2, 16, 32)] * 3
    expected = fusion[0] * maps.sides[0] + fusion[1] * maps.sides[1] + fusion[2] * maps.sides[2]
    torch.testing.assert_close(maps.fused, expected)
    assert len({side.mean().item() for side in maps.sides}) == 3


def test_side_logits_keep_the_strides_of_their_stages():
    network = RegionNetwork("vgg16_3_stages", 2).eval()
    with torch.no_grad():
        sides = network.side_logits(pixels().float(), IDENTITY)
    assert [side.shape for side in sides] == [(2, 1, 32, 64), (2, 1, 16, 32), (2, 1, 8, 16)]


def test_the_graph_gives_every_class_a_map_and_the_first_what_the_others_leave():
    torch.manual_seed(0)
    graph = RegionGraph(RegionNetwork("muse_compact_16", 3)).eval()
    with torch.no_grad():
        found = graph(pixels().to(torch.uint8), IDENTITY)
    assert found.shape == (2, 3, 16, 32)
    torch.testing.assert_close(found[:, 0], 1 - found[:, 1:].amax(1))
    assert ((found[:, 1:].amax(1) > 0.5) == (found.argmax(1) > 0)).all()


def test_only_the_first_three_stages_learn():
    network = RegionNetwork("muse_compact_32", 2)
    network(pixels().float(), IDENTITY).fused.sum().backward()
    stages = [
        any(p.grad is not None for p in stage.parameters()) for stage in network.backbone.stages
    ]
    assert stages == [True, True, True, False]
