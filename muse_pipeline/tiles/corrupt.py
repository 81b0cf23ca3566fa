"""What of a slide cannot be decoded: counted as it is found, refused when it is too much."""

from __future__ import annotations

import numpy as np

from muse_pipeline.errors import SlideError
from muse_pipeline.tiles.chunks import Chunk


class CorruptChunks:
    """The chunks of one slide that cannot be decoded."""

    def __init__(self, n_pixels: np.ndarray, n_pixels_in_all: int, max_fraction: float, slide_id: str):
        """Nothing is corrupt yet.

        Args:
            n_pixels: (rows, columns) int, pixels of tissue that each chunk touches.
            n_pixels_in_all: pixels of tissue, each counted once.
            max_fraction: share of the tissue that may be corrupt.
            slide_id: named in the error.
        """
        self._n_pixels, self._n_pixels_in_all = n_pixels, n_pixels_in_all
        self._max_fraction, self._slide_id = max_fraction, slide_id
        self._found: list[Chunk] = []
        self._n_corrupt = 0

    @property
    def fraction(self) -> float:
        """Share of the tissue in corrupt chunks."""
        return self._n_corrupt / max(self._n_pixels_in_all, 1)

    def rectangles(self, size_px: tuple[int, int]) -> list[list[int]]:
        """[x, y, width, height] of the corrupt chunks in an image of ``size_px``, in work pixels, row by row."""
        return [[*chunk.xy, *chunk.size(size_px)] for chunk in sorted(self._found)]

    def add(self, chunk: Chunk, cause: SlideError) -> None:
        """Note a chunk that cannot be decoded.

        Raises:
            SlideError: that makes too much of the tissue.
        """
        self._found.append(chunk)
        self._n_corrupt += int(self._n_pixels[chunk.row, chunk.column])
        share = self.fraction
        if share > self._max_fraction:
            raise SlideError(
                f"slide '{self._slide_id}': at least {share:.1%} of the tissue cannot be decoded, more than the "
                f"{self._max_fraction:.1%} allowed (last: {cause}); copy the slide again or raise --max-corrupt"
            ) from cause
