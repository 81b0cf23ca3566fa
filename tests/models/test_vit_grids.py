"""Tables of positions are resampled for grids of any size and shape, and are constants in an
exported graph.
"""

import numpy as np
import pytest
import torch

from muse_pipeline.models.muse import MuseVit, ResNet50, VisionTransformer, resample_positions


def make_table(grid, dim=3):
    return torch.randn(1, 1 + grid * grid, dim, generator=torch.Generator().manual_seed(grid))


def thin(input_px=64):
    """A ViT/16 with the decoder of MUSE, with a single attention head."""
    torch.manual_seed(0)
    return MuseVit(64, 1, input_px).eval()


def cubic_weight(distance: float) -> float:
    """Weight of Keys' cubic kernel with a = -0.75."""
    a, t = -0.75, abs(distance)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0


def cubic_matrix(wanted: int, own: int) -> np.ndarray:
    """(wanted, own) matrix: row i interpolates at (i + 0.5) * own / (wanted + 0.1) - 0.5, with
    repeated borders.
    """
    matrix = np.zeros((wanted, own))
    for i in range(wanted):
        source = (i + 0.5) * own / (wanted + 0.1) - 0.5
        for neighbour in range(int(np.floor(source)) - 1, int(np.floor(source)) + 3):
            matrix[i, min(max(neighbour, 0), own - 1)] += cubic_weight(source - neighbour)
    return matrix


@pytest.mark.parametrize(
    "own, rows, columns", [(14, 14, 14), (14, 32, 32), (32, 14, 20), (14, 3, 5), (4, 7, 1)]
)
def test_resampling_is_that_of_its_definition(own, rows, columns):
    table = make_table(own)
    patches = table[0, 1:].double().numpy().reshape(own, own, 3)
    expected = np.einsum(
        "yi,xj,ijc->yxc", cubic_matrix(rows, own), cubic_matrix(columns, own), patches
    )
    found = resample_positions(table, (rows, columns))
    assert torch.equal(found[:, 0], table[:, 0])
    assert np.allclose(found[0, 1:].numpy(), expected.reshape(-1, 3), atol=1e-5)


def test_at_its_own_grid_the_last_token_drifts_and_a_table_of_its_own_is_left_alone():
    position = (13 + 0.5) * 14 / 14.1 - 0.5
    assert position == pytest.approx(12.904, abs=1e-3)
    encoder = VisionTransformer(16, 2, grid=14)
    assert encoder.positions((14, 14)) is encoder.pos_embed
    assert not torch.allclose(
        resample_positions(encoder.pos_embed, (14, 14)), encoder.pos_embed, atol=1e-4
    )


def test_as_many_patches_in_another_shape_are_another_grid():
    encoder = VisionTransformer(16, 2, grid=4)
    assert encoder.positions((2, 8)).shape == encoder.pos_embed.shape
    assert not torch.allclose(encoder.positions((2, 8)), encoder.pos_embed)


@pytest.mark.parametrize(
    "height, width", [(64, 64), (96, 64), (32, 160), (48, 80), (16, 16), (208, 112)]
)
def test_inputs_of_any_grid(height, width):
    network = thin()
    with torch.inference_mode():
        features = network(torch.rand(2, 3, height, width))
    assert features.dense.shape == (2, 64, height // 4, width // 4)
    assert features.image.shape == (2, 64)


def test_rows_and_columns_are_not_confused():
    """A transposed image gives the transposed map if filters and positions are transposed too."""
    network, turned = thin(), thin()
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    for name, value in weights.items():
        if value.ndim == 4:
            weights[name] = value.transpose(2, 3)
    name = "encoder.encoder.pos_embed"
    patches = weights[name][:, 1:].unflatten(1, (4, 4)).transpose(1, 2).flatten(1, 2)
    weights[name] = torch.cat((weights[name][:, :1], patches), 1)
    turned.load_state_dict(weights)
    image = torch.rand(1, 3, 96, 160)
    with torch.inference_mode():
        first, second = network(image).dense, turned(image.transpose(2, 3)).dense
    assert torch.allclose(first, second.transpose(2, 3), atol=1e-4)


def test_positions_are_trained_through_the_resampling():
    network = thin()
    network(torch.rand(1, 3, 96, 64)).dense.square().mean().backward()
    gradient = network.encoder["encoder"].pos_embed.grad
    assert (gradient.abs().sum(2) > 0).all()


def test_a_resnet_takes_windows_that_are_not_square():
    torch.manual_seed(0)
    stages, vector = ResNet50().eval()(torch.rand(1, 3, 64, 96))
    assert [tuple(stage.shape[1:]) for stage in stages] == [
        (256, 16, 24),
        (512, 8, 12),
        (1024, 4, 6),
        (2048, 2, 3),
    ]
    assert vector.shape == (1, 2048)


def operations(encoder: VisionTransformer, image: torch.Tensor) -> set[str]:
    program = torch.export.export(encoder, (image,))
    return {str(node.target) for node in program.graph.nodes if node.op == "call_function"}


def test_a_fixed_size_leaves_no_resampling_of_positions_in_the_graph():
    network = thin()
    encoder = network.encoder["encoder"]
    image, other = torch.rand(1, 3, 96, 64), torch.rand(1, 3, 48, 128)
    with torch.inference_mode():
        expected = [network(picture).dense for picture in (image, other)]
    names = set(network.state_dict())
    assert any("bicubic" in name for name in operations(encoder, image))
    network.fix_size(96, 64)
    assert not any("bicubic" in name for name in operations(encoder, image))
    assert set(network.state_dict()) == names
    with torch.inference_mode():
        found = [network(picture).dense for picture in (image, other)]
    # The fixed positions are not used for an image with the same number of patches but a different
    # shape.
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
