"""The pixels of many nuclei at once: each in the ring around its nucleus, in the nucleus' rim, or further inside.

Outlines are filled by counting crossings: an edge that passes the centre line of a row of pixels adds or subtracts one
at the first pixel centre to its right, and the running sum over the row is 1 inside. The rows of the boxes around all
nuclei lie in one array of cells; each row ends at 0, so one running sum serves them all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from muse_pipeline.nuclei.rays import ray_directions

RIM_UM, RING_UM = 1.0, 2.0
RING, RIM, CORE = 1, 2, 3  # the nucleus is RIM and CORE


@dataclass(frozen=True)
class ZonePixels:
    """Pixels whose centres lie in the zones of N nuclei, nucleus by nucleus and row by row.

    Attributes:
        place: (M,) index of the pixel in the flattened image.
        zone: (M,) int8: ``RING``, ``RIM`` or ``CORE``.
        cell: (M,) index of the pixel in the cells of all boxes. Boxes have a margin to the right and below, so the
            cells next to a pixel of a nucleus lie in the same box or are margin.
        row: (M,) index of the cell's row among those of all boxes.
        width: cells in each of these rows.
        start: (N + 1,) the nucleus i has the pixels from start[i] to start[i + 1].
    """

    place: np.ndarray
    zone: np.ndarray
    cell: np.ndarray
    row: np.ndarray
    width: np.ndarray
    start: np.ndarray

    def where(self, chosen: np.ndarray) -> ZonePixels:
        """The pixels that are chosen (M,) bool."""
        places = np.flatnonzero(chosen)
        columns = (each.take(places) for each in (self.place, self.zone, self.cell, self.row))
        return ZonePixels(*columns, self.width, np.searchsorted(places, self.start))

    @property
    def n_pixels(self) -> np.ndarray:
        """(N,) pixels of each nucleus."""
        return np.diff(self.start)

    @property
    def owner(self) -> np.ndarray:
        """(M,) index of each pixel's nucleus."""
        return np.repeat(np.arange(len(self.start) - 1), self.n_pixels)

    def sum(self, values: np.ndarray) -> np.ndarray:
        """(N,) float64 sums of values (M,) by nucleus."""
        sums, known = np.zeros(len(self.start) - 1), self.n_pixels > 0
        if known.any():
            sums[known] = np.add.reduceat(values, self.start[:-1][known], dtype=float)
        return sums


def find_zones(xy: np.ndarray, rays_um: np.ndarray, mpp: float, shape: tuple[int, int]) -> ZonePixels:
    """Pixels of nuclei in an image of ``shape`` (h, w).

    The rim is what the outline loses when every ray is shortened by 1 um, the ring what it gains when every ray is
    lengthened by 2 um. Nuclei may overlap: a pixel then belongs to each of them.

    Args:
        xy: (N, 2) centres in pixels of the image.
        rays_um: (N, R).
        mpp: um per pixel.
        shape: of the image; pixels outside are left out.
    """
    rays = np.asarray(rays_um, float)
    directions = ray_directions(rays.shape[1]) / mpp
    ends = np.stack([rays + RING_UM, rays, np.maximum(rays - RIM_UM, 0)])[..., None] * directions + xy[:, None]
    low = np.ceil(ends[0].min(1) - 0.5).astype(np.int64)  # first pixel whose centre may lie inside
    high = np.ceil(ends[0].max(1) - 0.5).astype(np.int64)
    size = high - low + 1  # with the margin
    first_row = np.append(0, np.cumsum(size[:, 1]))  # of each box among the rows of all boxes
    width = np.repeat(size[:, 0], size[:, 1])
    first_cell = np.append(0, np.cumsum(width))
    zone = np.cumsum(_crossings(ends, low, first_row, first_cell), dtype=np.int8)
    y = np.arange(len(width)) - np.repeat(first_row[:-1] - low[:, 1], size[:, 1])
    x_of_first = np.repeat(low[:, 0], size[:, 1])
    cell = np.flatnonzero(zone)
    row = np.repeat(np.arange(len(width)), width).take(cell)
    place = cell + (y * shape[1] + x_of_first - first_cell[:-1]).take(row)
    start = np.searchsorted(cell, first_cell[first_row])
    zones = ZonePixels(place, zone.take(cell), cell, row, width, start)
    if (low >= 0).all() and (high <= shape[::-1]).all():
        return zones
    x, y = cell + (x_of_first - first_cell[:-1]).take(row), y.take(row)
    return zones.where((x >= 0) & (x < shape[1]) & (y >= 0) & (y < shape[0]))


def _crossings(ends: np.ndarray, low: np.ndarray, first_row: np.ndarray, first_cell: np.ndarray) -> np.ndarray:
    """(cells,) int8: what outlines with vertices ``ends`` (3, N, R, 2) add to the running sum over all boxes."""
    x, y = np.moveaxis(ends, -1, 0)
    row = np.ceil(y - 0.5).astype(np.int64)  # first one whose centre line is not above the vertex
    next_x, next_y, next_row = (np.concatenate([each[..., 1:], each[..., :1]], -1) for each in (x, y, row))
    edge = np.flatnonzero(row != next_row)
    nucleus = edge // x.shape[2] % x.shape[1]
    x, y, next_x, next_y, row, next_row = (each.ravel().take(edge) for each in (x, y, next_x, next_y, row, next_row))
    slope = (next_x - x) / (next_y - y)
    n_rows = np.abs(next_row - row)
    each = np.repeat(np.arange(len(edge)), n_rows)
    nth = np.arange(len(each)) - (np.cumsum(n_rows) - n_rows).take(each)
    top = np.minimum(row, next_row)
    at_top = x - 0.5 - low[nucleus, 0] + (top + 0.5 - y) * slope  # where the edge passes the first of its rows
    column = np.ceil(at_top.take(each) + nth * slope.take(each)).astype(np.int64)
    cell = first_cell.take((top + (first_row[:-1] - low[:, 1])[nucleus]).take(each) + nth) + column
    change = np.zeros(first_cell[-1], np.int8)
    np.add.at(change, cell, np.where(next_row < row, np.int8(1), np.int8(-1)).take(each))
    return change
