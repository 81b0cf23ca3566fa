"""Read any rectangle of a slide at any mpp: averaged over the area of each pixel, or interpolated
if enlarged.

The image at ``mpp`` has an integer lattice whose corner is the corner of level 0 (frame *work*).
Its pixels are area-weighted means of the pixels that they cover in the best level: the coarsest one
that is at least as fine. A slide more than 5 % coarser than ``mpp`` is enlarged from level 0, by
linear interpolation between the centres of its pixels. The weights depend only on absolute
coordinates, so rectangles are identical where they overlap, and no seams arise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy import ndarray

from muse_pipeline.core.coords import work_size_px
from muse_pipeline.core.errors import MppError
from muse_pipeline.core.types import Slide, SlideInfo
from muse_pipeline.slides.base import WHITE
from muse_pipeline.tissue.overview import coarsest_level

if TYPE_CHECKING:
    from scipy.sparse import csr_array

SAME_MPP = 1.001  # a level coarser than requested by up to this factor is fine enough
# a slide coarser by up to this factor is still averaged; at most one pixel in 20 is repeated
MAX_COARSER = 1.05
MAX_ENLARGED = 2.0  # largest factor by which a slide is enlarged


class AreaReader:
    """A slide as an image of (width, height) ``size_px`` at a fixed mpp, read from one
    ``level``.
    """

    def __init__(self, slide: Slide, info: SlideInfo, mpp: float, *, enlarge: bool = True):
        self.slide, self.mpp = slide, mpp
        self.size_px = work_size_px(info.size_px, info.mpp, mpp)
        self.level = choose_level(info, mpp, enlarge=enlarge)
        downsample = info.level_downsamples[self.level]
        sizes = info.level_sizes_px[self.level]
        self._axes = [
            Axis(mpp / (info.mpp[i] * downsample[i]), downsample[i], sizes[i], self.size_px[i])
            for i in range(2)
        ]

    def read(self, xy: tuple[int, int], size: tuple[int, int]) -> ndarray:
        """Read ``size`` = (width, height) work pixels at ``xy``, which must lie on the lattice.

        The result is (h, w, 3) uint8, white beyond the end of the level.
        """
        stretches = [
            axis.stretch(start, n) for axis, start, n in zip(self._axes, xy, size, strict=True)
        ]
        if any(stretch.n_source <= 0 for stretch in stretches):
            return np.full((size[1], size[0], 3), WHITE, np.uint8)
        across, down = stretches
        corner = (self._axes[0].to_level0(across.first), self._axes[1].to_level0(down.first))
        return reduce_area(
            self.slide.read_region(corner, self.level, (across.n_source, down.n_source)),
            across,
            down,
        )


@dataclass(frozen=True)
class Axis:
    """One axis of the lattice, laid over the same axis of a level."""

    ratio: float  # level pixels per work pixel
    downsample: float  # level-0 pixels per level pixel
    level_px: int  # length of the level
    work_px: int  # length of the lattice

    @property
    def enlarges(self) -> bool:
        """True if pixels are interpolated, which needs an additional level pixel at each end."""
        return self.ratio * MAX_COARSER < 1 - _ALIGNED

    def stretch(self, start: int, n: int) -> Stretch:
        """Work pixels ``start`` to ``start + n`` and the level pixels under them, within the
        level.
        """
        first, last = start * self.ratio, (start + n) * self.ratio
        first = int(np.floor(first + _ALIGNED)) - self.enlarges
        last = int(np.ceil(last - _ALIGNED)) + self.enlarges
        first, last = max(first, 0), min(last, self.level_px)
        return Stretch(self, start, n, first, last - first)

    def to_level0(self, level_px: int) -> int:
        """The first level-0 pixel of a level pixel."""
        return round(level_px * self.downsample)


@dataclass(frozen=True)
class Stretch:
    """``n`` work pixels of an axis from ``start``, and the ``n_source`` level pixels from ``first``
    under them.
    """

    axis: Axis
    start: int
    n: int
    first: int
    n_source: int

    @property
    def whole_ratio(self) -> int:
        """The ratio if it is an integer and the level does not end within this stretch, otherwise
        0.
        """
        ratio = round(self.axis.ratio)
        drift_px = abs(self.axis.ratio - ratio) * self.axis.work_px
        return ratio if drift_px < _ALIGNED and self.n_source == self.n * ratio else 0

    def blocks(self) -> list[Stretch]:
        """Divide the stretch into blocks of about 512 level pixels, which fit in the CPU's cache
        while averaged.
        """
        step = max(int(512 / self.axis.ratio), 16)
        return [
            self.axis.stretch(self.start + k, min(step, self.n - k)) for k in range(0, self.n, step)
        ]

    def weights(self) -> csr_array:
        """(n, n_source) matrix; row k contains the weight of each level pixel in work pixel ``start
        + k``.

        Rows sum to 1, or to 0 where the lattice extends beyond the level.
        """
        from scipy.sparse import (
            csr_array,
        )  # takes 0.1 s to load and is not needed for integer ratios

        edges = np.arange(self.start, self.start + self.n + 1) * self.axis.ratio
        if self.axis.enlarges:
            # The two level pixels on either side of the centre of each work pixel.
            centre = (edges[:-1] + edges[1:]) / 2 - 0.5
            left = np.floor(centre).astype(int)
            overlap = np.stack([left + 1 - centre, centre - left], 1)
            overlap[edges[:-1] >= self.axis.level_px - _ALIGNED] = 0  # no weight beyond the level
            columns = (left[:, None] + [0, 1]).clip(0, self.axis.level_px - 1)
        else:
            columns = np.floor(edges[:-1]).astype(int)[:, None] + np.arange(
                int(np.ceil(self.axis.ratio)) + 1
            )
            overlap = np.minimum(edges[1:, None], columns + 1) - np.maximum(
                edges[:-1, None], columns
            )
        columns = columns - self.first
        overlap[(columns < 0) | (columns >= self.n_source) | (overlap < 0)] = 0
        total = overlap.sum(1, keepdims=True)
        share = np.divide(overlap, total, out=np.zeros_like(overlap), where=total > _ALIGNED)
        row_ends = np.arange(0, columns.size + 1, columns.shape[1])
        # Pixels outside the level have no weight, but need a valid index.
        columns = columns.clip(0, self.n_source - 1).ravel()
        return csr_array(
            (share.ravel().astype(np.float32), columns, row_ends), (self.n, self.n_source)
        )


_ALIGNED = 1e-3  # level px; positions closer than this to an edge count as on it


def reduce_area(pixels: ndarray, across: Stretch, down: Stretch) -> ndarray:
    """(down.n, across.n, 3) uint8: the mean in each work pixel of the level ``pixels`` under the
    two stretches.
    """
    if across.whole_ratio == down.whole_ratio == 1:
        return np.ascontiguousarray(pixels)
    if across.whole_ratio and down.whole_ratio:
        return cv2.resize(pixels, (across.n, down.n), interpolation=cv2.INTER_AREA)
    result = np.full((down.n, across.n, 3), WHITE, np.uint8)
    columns = [(block, block.weights()) for block in across.blocks() if block.n_source > 0]
    for row in (block for block in down.blocks() if block.n_source > 0):
        row_weights = row.weights()
        for column, column_weights in columns:
            top = row.first - down.first
            left = column.first - across.first
            under = pixels[top : top + row.n_source, left : left + column.n_source]
            target = result[row.start - down.start :, column.start - across.start :]
            target[: row.n, : column.n] = _weigh(under, column_weights, row_weights)
    return result


def _weigh(pixels: ndarray, across: csr_array, down: csr_array) -> ndarray:
    """Average rows by ``down`` and columns by ``across``, rounded once, half up; white where
    weights are 0.
    """
    height, width, _ = pixels.shape
    rows = (down @ pixels.reshape(height, -1).astype(np.float32)).reshape(-1, width, 3)
    # A sparse matrix multiplies only along the first axis, so the picture is transposed to average
    # its columns.
    columns = across @ cv2.transpose(rows).reshape(width, -1)
    columns += 0.5
    result = cv2.transpose(columns.astype(np.uint8).reshape(across.shape[0], -1, 3))
    result[down.sum(1) == 0] = WHITE
    result[:, across.sum(1) == 0] = WHITE
    return result


def warn_enlarged(info: SlideInfo, mpp: float) -> list[str]:
    """A warning if an image at ``mpp`` enlarges the slide."""
    if max(info.mpp) <= mpp * MAX_COARSER:
        return []
    return [
        f"the slide has {max(info.mpp):.4g} um/px and is enlarged to {mpp:g} um/px: nuclei are"
        " missed and outlines are less exact than in slides scanned at the model's pixel size"
    ]


def choose_level(info: SlideInfo, mpp: float, *, enlarge: bool = True) -> int:
    """The coarsest level that is at least as fine as ``mpp`` in both directions, or else level
    0.
    """
    if max(info.mpp) > mpp * (MAX_ENLARGED * SAME_MPP if enlarge else MAX_COARSER):
        raise MppError(
            f"slide '{info.slide_id}' has {max(info.mpp):.4g} um/px, too coarse for an image at"
            f" {mpp:g} um/px; correct a wrong mpp in the sheet, leave out the slide, or use a model"
            " for coarser slides"
        )
    return coarsest_level(info, mpp * SAME_MPP)
