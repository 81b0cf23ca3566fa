"""Features read at positions on dense maps: either rule reads ramps exactly, and padding changes
nothing.
"""

import pytest
import torch

from muse_pipeline.models.base import ALIGNED_CORNERS, HALF_PIXEL, interpolate_at


def ramp(rows, columns):
    """(1, 2, rows, columns): each cell holds its own (column, row)."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([x, y])[None].float()


@pytest.mark.parametrize("rows, columns", [(56, 56), (24, 40)])
def test_the_authors_rule_reads_x_over_s(rows, columns):
    xy = torch.rand(1, 200, 2, dtype=torch.float64).float() * torch.tensor([4 * columns, 4 * rows])
    xy[0, 0], xy[0, 1] = torch.tensor([4.0 * columns, 4.0 * rows]), torch.zeros(2)
    expected = xy / torch.tensor([4 * columns, 4 * rows]) * torch.tensor([columns - 1, rows - 1])
    assert torch.allclose(
        interpolate_at(ramp(rows, columns), xy, ALIGNED_CORNERS), expected, atol=1e-5
    )


def test_our_rule_reads_a_quarter_of_x_less_half():
    xy = 2 + torch.rand(1, 200, 2) * torch.tensor([156, 92])
    assert torch.allclose(interpolate_at(ramp(24, 40), xy, HALF_PIXEL), xy / 4 - 0.5, atol=1e-5)


def test_a_padded_batch_equals_one_window_at_a_time():
    dense, xy = torch.rand(3, 5, 16, 16), torch.rand(3, 7, 2) * 64
    xy[1, 4:] = -1e6
    for lattice in (HALF_PIXEL, ALIGNED_CORNERS):
        together = interpolate_at(dense, xy, lattice)
        for index in range(3):
            alone = interpolate_at(dense[index : index + 1], xy[index : index + 1], lattice)
            assert torch.equal(together[index], alone[0])


def test_cells_are_read_at_their_centres():
    dense = torch.rand(2, 3, 12, 20)
    rows, columns = torch.meshgrid(torch.arange(12), torch.arange(20), indexing="ij")
    centres = (torch.stack([columns, rows], -1).reshape(1, -1, 2) * 4.0 + 2).expand(2, -1, -1)
    for lattice in (HALF_PIXEL, ALIGNED_CORNERS):
        read = interpolate_at(dense, centres, lattice).transpose(1, 2).reshape(2, 3, 12, 20)
        assert torch.allclose(lattice.at_cells(dense), read, atol=1e-5)
