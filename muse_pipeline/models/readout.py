"""Rules that tie positions of a window to columns and rows of a dense map, and features read at positions.

Two rules exist. Networks of our own resize with half-pixel centres: pixel x lies at column ``x / 4 - 0.5`` in any
window. The released MUSE networks resize with aligned corners, and their authors read pixel x at column
``x / S * (S / 4 - 1)`` of a window of S px: position depends on the window, so such a network keeps the window it was
trained with.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from muse_pipeline.core.coords import CELL_PX


@dataclass(frozen=True)
class Lattice:
    """The rule of one network.

    Attributes:
        name: name in the model card.
        align_corners: whether the first and last columns lie on the window's edges, not half a cell inside.
    """

    name: str
    align_corners: bool

    @property
    def any_size(self) -> bool:
        """True if the network takes windows of any sides: its output for a nucleus is then the same in all of them."""
        return not self.align_corners

    def at_cells(self, dense: Tensor) -> Tensor:
        """The map (B, D, h, w) read at the centres of its cells, pixels ``4 * column + 2``, as heads need it.

        For half-pixel maps that is the map itself. The other rule costs two products with constant matrices, which
        every runtime has.
        """
        if not self.align_corners:
            return dense
        rows, columns = (_interpolation(n).to(dense) for n in dense.shape[-2:])
        return torch.matmul(torch.matmul(rows, dense), columns.T)


HALF_PIXEL = Lattice("x/4-0.5", align_corners=False)
ALIGNED_CORNERS = Lattice("x/S*(S/4-1)", align_corners=True)


def read_at(dense: Tensor, xy: Tensor, lattice: Lattice) -> Tensor:
    """Bilinear features at positions ("O_bi" of MUSE, arXiv 2511.05170), the whole batch at once.

    Args:
        dense: (B, D, h, w) map of windows of 4 h x 4 w px.
        xy: (B, M, 2) window px, pixel edges at integers.
        lattice: rule of the network that made the map.

    Returns:
        (B, M, D), not normalised. Outside the window: the border's features under the half-pixel rule, zeros under the
        authors'.
    """
    # Filled where they are needed: a list would be copied to the device, which waits for it.
    size = torch.cat([xy.new_full((1,), side * CELL_PX) for side in dense.shape[:1:-1]])
    grid = (2 * xy / size - 1)[:, None].to(dense.dtype)  # (B, 1, M, 2)
    padding = "zeros" if lattice.align_corners else "border"
    read = functional.grid_sample(dense, grid, "bilinear", padding, align_corners=lattice.align_corners)
    return read[:, :, 0].transpose(1, 2)


def _interpolation(n: int) -> Tensor:
    """(n, n) matrix that takes samples on aligned corners to cell centres, (cell + 0.5) / n of the way."""
    position = (torch.arange(n, dtype=torch.float64) + 0.5) / n * (n - 1)
    return (1 - (position[:, None] - torch.arange(n)).abs()).clamp(min=0).float()
