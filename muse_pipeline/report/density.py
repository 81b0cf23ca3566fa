"""Nuclei of ``nuclei.parquet`` counted on a coarse grid, and the fields to show."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy import ndarray

from muse_pipeline.core.coords import level0_to_work
from muse_pipeline.nuclei import parquet
from muse_pipeline.nuclei.arrow import positions, to_numpy


def read_outlines(
    path: Path, low_xy: ndarray, high_xy: ndarray, column: str
) -> tuple[ndarray, ndarray, ndarray, ndarray]:
    """Read the nuclei whose centres lie in a rectangle in level-0 px; only row groups that touch it
    are read.

    Returns their polygons (n,), xy (n, 2) in level-0 px, ``column`` (n,) int, and (n,) bool, True
    if totals leave them out.
    """
    provenance = parquet.read_provenance(path)
    quality = [parquet.QUALITY] if provenance.quality else []
    table = parquet.read_within(path, low_xy, high_xy, ["geometry", "x", "y", column, *quality])
    geometry = parquet.parse_outlines(np.array(table["geometry"].to_pylist(), object))
    return (
        geometry,
        positions(table),
        to_numpy(table[column]).astype(int),
        parquet.left_out(table, provenance),
    )


CELL_UM = 64.0
WHOLE = "whole image"  # caption of the field of a slide that fits into a single field
FIELD_CELLS = 4  # side of a field in cells: 256 um, which is 512 px at 0.5 um/px


@dataclass(frozen=True)
class DensityGrid:
    """Nuclei counted in square cells of side ``CELL_UM``; the first cell begins at the corner of
    level 0.
    """

    # (C + 1, rows, columns) nuclei by class; the last plane counts nuclei without a known class
    counts: ndarray
    size_um: tuple[float, float]  # (width, height) of the slide

    @property
    def per_mm2(self) -> ndarray:
        """(rows, columns) nuclei per mm2."""
        return self.counts.sum(0) / (CELL_UM / 1000) ** 2


@dataclass(frozen=True)
class Field:
    """A square of tissue to be drawn."""

    caption: str  # reason why the field was chosen
    xy_um: tuple[float, float]  # top left corner, um from the corner of level 0
    side_um: float = CELL_UM * FIELD_CELLS  # side of the square, um


def count_nuclei(
    batches: Iterable[tuple[ndarray, ndarray]],
    size_px: tuple[int, int],
    slide_mpp: tuple[float, float],
    n_classes: int,
) -> DensityGrid:
    """Count nuclei, given in batches of (xy in level-0 px, label), on the grid of a slide of
    ``size_px``.
    """
    size_um = level0_to_work(np.array(size_px), slide_mpp, 1.0)
    columns, rows = np.maximum(np.ceil(size_um / CELL_UM).astype(int), FIELD_CELLS)
    counts = np.zeros((n_classes + 1) * rows * columns, np.int64)
    for xy, label in batches:
        cell = (
            np.floor(level0_to_work(xy, slide_mpp, 1.0) / CELL_UM)
            .astype(int)
            .clip(0, (columns - 1, rows - 1))
        )
        plane = np.where((label >= 0) & (label < n_classes), label, n_classes)
        counts += np.bincount(
            (plane * rows + cell[:, 1]) * columns + cell[:, 0], minlength=len(counts)
        )
    return DensityGrid(
        counts.reshape(n_classes + 1, rows, columns), (float(size_um[0]), float(size_um[1]))
    )


def choose_fields(grid: DensityGrid) -> list[Field]:
    """Choose up to three fields that do not overlap: the densest, the most mixed, and one of
    typical density.

    The choice depends only on the counts; among equal fields the topmost, then the leftmost, is
    chosen.
    """
    n = FIELD_CELLS
    table = np.pad(grid.counts.cumsum(1).cumsum(2), ((0, 0), (1, 0), (1, 0)))
    # sums over n x n cells
    counts = table[:, n:, n:] - table[:, :-n, n:] - table[:, n:, :-n] + table[:, :-n, :-n]
    width, height = (max(1, int(extent // CELL_UM) - FIELD_CELLS + 1) for extent in grid.size_um)
    counts = counts[:, :height, :width]  # only fields that are entirely on the slide
    total = counts.sum(0)
    if not total.any():
        return []
    if max(grid.size_um) <= FIELD_CELLS * CELL_UM:
        return [Field(WHOLE, (0.0, 0.0))]
    median, upper = np.percentile(total[total > 0], [50, 75])
    share = counts / np.maximum(total, 1)
    # Shannon entropy of the classes, rounded so that ties are the same on every machine.
    entropy = np.round(-(share * np.log(np.where(share > 0, share, 1))).sum(0), 6)
    wishes = {
        "densest": total,
        # Among equally mixed fields the densest is chosen.
        "most mixed": np.where(total >= upper, entropy + 1e-6 * total / total.max(), 0),
        "typical density": 1 / (1 + np.abs(total - median)),
    }
    free, reach = total > 0, FIELD_CELLS - 1
    fields = []
    for caption, score in wishes.items():
        if free.any():
            row, column = np.unravel_index(np.argmax(np.where(free, score, -1)), free.shape)
            fields.append(Field(caption, (column * CELL_UM, row * CELL_UM)))
            free[
                max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1
            ] = False
    return fields
