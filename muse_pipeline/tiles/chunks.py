"""Which chunks of a store hold tissue, and the tissue on the store's own lattice."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from muse_pipeline.tiles.store import CHUNK_PX, CHUNKS_PER_SHARD, tissue_pixel_px
from muse_pipeline.tissue.mask import TissueMask, dilate
from muse_pipeline.tissue.strips import strips

BLOCK_CHUNKS = 2  # read at once; see docs/store.md


@dataclass(frozen=True)
class Rectangle:
    """A rectangle of work pixels."""

    x: int
    y: int
    width: int
    height: int

    @property
    def xy(self) -> tuple[int, int]:
        """Top left corner."""
        return self.x, self.y

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.width, self.height

    def within(self, size_px: tuple[int, int]) -> Rectangle:
        """What of it lies in an image of ``size_px``."""
        return Rectangle(self.x, self.y, min(self.width, size_px[0] - self.x), min(self.height, size_px[1] - self.y))

    def chunks(self) -> list[Rectangle]:
        """Its chunks, if it is a row of them."""
        stop = self.x + self.width
        return [Rectangle(x, self.y, min(CHUNK_PX, stop - x), self.height) for x in range(self.x, stop, CHUNK_PX)]


def touched_cells(mask: np.ndarray, mask_mpp: np.ndarray, cell_um: float, shape: tuple[int, int]) -> np.ndarray:
    """Which cells (rows, columns) of side ``cell_um``, laid from the mask's corner, touch a true pixel of the mask."""
    spans = []
    for n, mpp, length in zip(shape, mask_mpp[::-1], mask.shape, strict=True):
        edges = np.arange(n + 1) * (cell_um / mpp)
        first, last = np.floor(edges[:-1] + 1e-6), np.ceil(edges[1:] - 1e-6)
        spans.append([ends.astype(int).clip(0, length) for ends in (first, last)])
    (top, bottom), (left, right) = spans
    touched = np.zeros(shape, bool)
    for cells in strips(shape[0]):  # sums over the whole mask would take more than the mask itself
        first = top[cells.start]
        total = cv2.integral(mask[first : bottom[cells].max()].astype(np.uint8))
        rows = total[bottom[cells] - first] - total[top[cells] - first]
        touched[cells] = (rows[:, right] - rows[:, left]) > 0
    return touched


def any_within(mask: np.ndarray, factor: int) -> np.ndarray:
    """(h, w) bool reduced ``factor`` times: whether anything in each block is true."""
    return touched_cells(mask, np.ones(2), factor, _grid_shape(mask.shape[::-1], factor))


def tissue_on_lattice(tissue: TissueMask, mpp: float, size_px: tuple[int, int]) -> np.ndarray:
    """Where nuclei are kept, as (h, w) bool pixels of ``tissue_pixel_px(mpp)`` work pixels."""
    side_px = tissue_pixel_px(mpp)
    return touched_cells(tissue.keep, tissue.mask_mpp, side_px * mpp, _grid_shape(size_px, side_px))


def chunks_with_tissue(tissue: TissueMask, mpp: float, size_px: tuple[int, int], margin_um: float) -> np.ndarray:
    """(rows, columns) bool: the chunks that touch tissue dilated by ``margin_um``."""
    dilated = dilate(tissue.mask, tissue.mask_mpp, margin_um)
    return touched_cells(dilated, tissue.mask_mpp, CHUNK_PX * mpp, _grid_shape(size_px, CHUNK_PX))


def shards_with_tissue(chunks: np.ndarray) -> list[tuple[int, int]]:
    """(row, column) of the shards that hold a true chunk of (rows, columns) ``chunks``, row by row."""
    row, column = np.nonzero(chunks)
    both = np.stack([row, column], 1) // CHUNKS_PER_SHARD
    return [tuple(map(int, shard)) for shard in np.unique(both, axis=0)]


def blocks_of(shard: tuple[int, int], chunks: np.ndarray, size_px: tuple[int, int]) -> list[Rectangle]:
    """The true chunks of a shard, joined to rows of up to ``BLOCK_CHUNKS`` neighbours that are read at once."""
    blocks = []
    top, left = (index * CHUNKS_PER_SHARD for index in shard)
    for row, cells in enumerate(chunks[top : top + CHUNKS_PER_SHARD, left : left + CHUNKS_PER_SHARD], top):
        for column, n in _runs(cells):
            block = Rectangle((left + column) * CHUNK_PX, row * CHUNK_PX, n * CHUNK_PX, CHUNK_PX)
            blocks.append(block.within(size_px))
    return blocks


def _runs(cells: np.ndarray) -> list[tuple[int, int]]:
    """(start, length) of the runs of true in ``cells``, none longer than ``BLOCK_CHUNKS``."""
    ends = np.flatnonzero(np.diff(cells.astype(np.int8), prepend=0, append=0))
    return [
        (int(at), int(min(BLOCK_CHUNKS, stop - at)))
        for start, stop in zip(ends[::2], ends[1::2], strict=True)
        for at in range(start, stop, BLOCK_CHUNKS)
    ]


def _grid_shape(size_px: tuple[int, int], cell_px: int) -> tuple[int, int]:
    return -(-size_px[1] // cell_px), -(-size_px[0] // cell_px)
