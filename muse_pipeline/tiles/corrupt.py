"""What of a slide cannot be decoded: counted as it is found, refused when it is too much."""

from __future__ import annotations

from threading import Lock

import numpy as np

from muse_pipeline.errors import SlideError
from muse_pipeline.tiles.chunks import Rectangle


class CorruptRegions:
    """The chunks of one slide that cannot be decoded; several threads may report at once."""

    def __init__(self, tissue: np.ndarray, tissue_px: int, max_fraction: float, slide_id: str):
        """Nothing is corrupt yet.

        Args:
            tissue: (h, w) bool.
            tissue_px: side of its pixels in work pixels.
            max_fraction: share of the tissue that may be corrupt.
            slide_id: named in the error.
        """
        self._tissue, self._tissue_px = tissue, tissue_px
        self._max_fraction, self._slide_id = max_fraction, slide_id
        self._found: list[Rectangle] = []
        self._n_tissue_pixels = 0
        self._lock = Lock()

    @property
    def fraction(self) -> float:
        """Share of the tissue in corrupt chunks."""
        return self._n_tissue_pixels / max(int(self._tissue.sum()), 1)

    def rectangles(self) -> list[list[int]]:
        """[x, y, width, height] of the corrupt chunks in work pixels, row by row."""
        found = sorted(self._found, key=lambda chunk: (chunk.y, chunk.x))
        return [[chunk.x, chunk.y, chunk.width, chunk.height] for chunk in found]

    def add(self, chunk: Rectangle, cause: SlideError) -> None:
        """Note a chunk that cannot be decoded.

        Raises:
            SlideError: that makes too much of the tissue.
        """
        with self._lock:
            self._found.append(chunk)
            self._n_tissue_pixels += int(self._tissue[self._rows_and_columns(chunk)].sum())
            fraction = self.fraction
        if fraction > self._max_fraction:
            raise SlideError(
                f"slide '{self._slide_id}': at least {fraction:.1%} of the tissue cannot be decoded, more than the "
                f"{self._max_fraction:.1%} allowed (last: {cause}); copy the slide again or raise --max-corrupt"
            ) from cause

    def _rows_and_columns(self, chunk: Rectangle) -> tuple[slice, slice]:
        side = self._tissue_px
        return tuple(
            slice(start // side, -(-(start + n) // side))
            for start, n in ((chunk.y, chunk.height), (chunk.x, chunk.width))
        )
