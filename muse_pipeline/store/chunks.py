"""The chunks of a store that contain tissue, and the tissue mask on the store's own lattice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from muse_pipeline.core.errors import SlideError
from muse_pipeline.store.store import CHUNK_PX, CHUNKS_PER_SHARD, tissue_pixel_px
from muse_pipeline.store.zarr_files import z_order
from muse_pipeline.tissue.mask import TissueMask, dilate
from muse_pipeline.tissue.overview import ROWS, strips


@dataclass(frozen=True, order=True)
class Chunk:
    """Position of a chunk in the grid of all chunks of an image; positions sort row by row."""

    row: int
    column: int

    @property
    def xy(self) -> tuple[int, int]:
        """Top left corner in work pixels."""
        return self.column * CHUNK_PX, self.row * CHUNK_PX

    def size(self, size_px: tuple[int, int]) -> tuple[int, int]:
        """(width, height) of the part of the chunk within an image of ``size_px``."""
        return tuple(min(CHUNK_PX, extent - start) for extent, start in zip(size_px, self.xy, strict=True))

    @property
    def shard(self) -> tuple[int, int]:
        """(row, column) of the shard that contains the chunk."""
        return self.row // CHUNKS_PER_SHARD, self.column // CHUNKS_PER_SHARD

    @property
    def in_shard(self) -> tuple[int, int]:
        """(row, column) of the chunk within its shard."""
        return self.row % CHUNKS_PER_SHARD, self.column % CHUNKS_PER_SHARD


def count_cells(
    mask: np.ndarray, mask_mpp: np.ndarray, cell_um: float, shape: tuple[int, int]
) -> Iterator[tuple[slice, np.ndarray]]:
    """Count the true mask pixels that each cell of a grid touches; cells of ``cell_um`` start at the mask's corner.

    Yields:
        The rows of each strip of the grid, whose ``shape`` is (rows, columns), and its counts (n, columns) int32.
    """
    spans = []
    for n, mpp, length in zip(shape, mask_mpp[::-1], mask.shape, strict=True):
        edges = np.arange(n + 1) * (cell_um / mpp)
        # With the tolerance, a rounding error does not make a cell touch a pixel that it only borders on.
        first, last = np.floor(edges[:-1] + 1e-6), np.ceil(edges[1:] - 1e-6)
        spans.append([ends.astype(int).clip(0, length) for ends in (first, last)])
    (top, bottom), (left, right) = spans
    for cells in strips(shape[0], max(1, ROWS * shape[0] // len(mask))):  # integral images need four times the memory
        first = top[cells.start]
        total = cv2.integral(mask[first : bottom[cells].max()].astype(np.uint8))
        rows = total[bottom[cells] - first] - total[top[cells] - first]
        yield cells, rows[:, right] - rows[:, left]


def touched_cells(mask: np.ndarray, mask_mpp: np.ndarray, cell_um: float, shape: tuple[int, int]) -> np.ndarray:
    """(rows, columns) bool: the cells that touch a true pixel of the mask; arguments as for ``count_cells``."""
    touched = np.empty(shape, bool)
    for cells, n in count_cells(mask, mask_mpp, cell_um, shape):
        touched[cells] = n > 0
    return touched


def any_within(mask: np.ndarray, factor: int) -> np.ndarray:
    """Shrink a mask (h, w) bool by ``factor``; a pixel is True if any of the pixels that it replaces is."""
    return touched_cells(mask, np.ones(2), factor, _grid_shape(mask.shape[::-1], factor))


def tissue_on_lattice(tissue: TissueMask, mpp: float, size_px: tuple[int, int]) -> np.ndarray:
    """Mask (h, w) bool of the area where nuclei are kept; a pixel has a side of ``tissue_pixel_px(mpp)`` work px."""
    side_px = tissue_pixel_px(mpp)
    return touched_cells(_beyond(tissue.dilated), tissue.mask_mpp, side_px * mpp, _grid_shape(size_px, side_px))


def chunks_with_tissue(tissue: TissueMask, mpp: float, size_px: tuple[int, int], margin_um: float) -> np.ndarray:
    """(rows, columns) bool: the chunks that touch tissue dilated by ``margin_um``."""
    dilated = dilate(tissue.mask, tissue.mask_mpp, margin_um)
    return touched_cells(_beyond(dilated), tissue.mask_mpp, CHUNK_PX * mpp, _grid_shape(size_px, CHUNK_PX))


def chunks_within(low_xy: np.ndarray, high_xy: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """``shape`` = (rows, columns) bool: the chunks that touch the rectangle between two corners in work pixels."""
    left, top = np.floor(np.asarray(low_xy) / CHUNK_PX).clip(0).astype(int)
    right, bottom = np.ceil(np.asarray(high_xy) / CHUNK_PX).clip(0).astype(int)
    touched = np.zeros(shape, bool)
    touched[top:bottom, left:right] = True
    return touched


def _beyond(mask: np.ndarray) -> np.ndarray:
    """The mask with its last row and column repeated once (as in ``KeptArea.contains``)."""
    return np.pad(mask, ((0, 1), (0, 1)), "edge")


def chunks_by_shard(chunks: np.ndarray) -> list[Chunk]:
    """The chunks that are True in ``chunks`` (rows, columns), shard by shard, in the order of each shard's file."""
    found = [Chunk(*map(int, where)) for where in np.argwhere(chunks)]
    rank = {where: number for number, where in enumerate(z_order(CHUNKS_PER_SHARD))}
    return sorted(found, key=lambda chunk: (chunk.shard, rank[chunk.in_shard]))


def _grid_shape(size_px: tuple[int, int], cell_px: int) -> tuple[int, int]:
    return -(-size_px[1] // cell_px), -(-size_px[0] // cell_px)


class CorruptChunks:
    """Collects the chunks of a slide that cannot be decoded."""

    def __init__(self, n_pixels: np.ndarray, n_pixels_in_all: int, max_fraction: float, slide_id: str):
        """Start without corrupt chunks.

        Args:
            n_pixels: (rows, columns) int, number of tissue pixels that each chunk touches.
            n_pixels_in_all: number of tissue pixels of the slide.
            max_fraction: largest fraction of the tissue that may be corrupt.
            slide_id: id of the slide, for the error message.
        """
        self._n_pixels, self._n_pixels_in_all = n_pixels, n_pixels_in_all
        self._max_fraction, self._slide_id = max_fraction, slide_id
        self._found: list[Chunk] = []
        self._n_corrupt = 0

    @property
    def fraction(self) -> float:
        """Fraction of the tissue in corrupt chunks."""
        return self._n_corrupt / max(self._n_pixels_in_all, 1)

    def rectangles(self, size_px: tuple[int, int]) -> list[list[int]]:
        """[x, y, width, height] in work pixels of each corrupt chunk in an image of ``size_px``, row by row."""
        return [[*chunk.xy, *chunk.size(size_px)] for chunk in sorted(self._found)]

    def add(self, chunk: Chunk, cause: SlideError) -> None:
        """Add a chunk that cannot be decoded because of ``cause``."""
        self._found.append(chunk)
        self._n_corrupt += int(self._n_pixels[chunk.row, chunk.column])
        share = self.fraction
        if share > self._max_fraction:
            raise SlideError(
                f"slide '{self._slide_id}': at least {share:.1%} of the tissue cannot be decoded, more than the "
                f"{self._max_fraction:.1%} allowed (last error: {cause}); copy the slide again or raise --max-corrupt"
            ) from cause
