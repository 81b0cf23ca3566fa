"""Regions drawn on slides, divided into windows with context that are read at a model's mpp."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy import ndarray
from shapely.geometry.base import BaseGeometry

from muse_pipeline.core.coords import work_to_level0
from muse_pipeline.core.types import Slide, SlideInfo
from muse_pipeline.slides.base import open_slide
from muse_pipeline.store.resample import AreaReader
from muse_pipeline.tissue.colour import measure_colour
from muse_pipeline.tissue.find import find_tissue

# half a window of `my_labels.yaml`; windows may be centred on the border of a region
LEAST_CONTEXT_PX = 192


@dataclass(frozen=True)
class RegionWindow:
    """A picture around one cell of a region; the cells tile the region, so every nucleus is in
    exactly one cell.
    """

    region: BaseGeometry  # polygon in work px
    # left, top, right, bottom of the cell in work px; only nuclei in the cell belong to this
    # picture
    cell: tuple[int, int, int, int]
    area: BaseGeometry  # all regions of the slide in work px
    origin: tuple[int, int]  # (x, y) of the picture in work px
    size: tuple[int, int]  # (width, height) of the picture

    def contains(self, xy: ndarray) -> ndarray:
        """(N,) bool: True for positions (N, 2), in work px, inside both the region and this cell
        (half-open).
        """
        left, top, right, bottom = self.cell
        x, y = np.asarray(xy, float).T
        within = (x >= left) & (x < right) & (y >= top) & (y < bottom)
        return within & shapely.intersects_xy(self.region, x, y)

    def around_cell(self, pixels: ndarray, margin_px: int) -> tuple[ndarray, ndarray]:
        """The ``pixels`` of the picture in and around the cell, and the position (x, y) of their
        corner in it.
        """
        left, top = np.maximum(np.subtract(self.cell[:2], self.origin) - margin_px, 0)
        right, bottom = np.subtract(self.cell[2:], self.origin) + margin_px
        return pixels[top:bottom, left:right], np.array([left, top])

    def mask(self) -> ndarray:
        """(height, width) bool: pixels of the picture whose centres are in both the region and this
        cell.
        """
        filled = fill_polygon(self.region, self.origin, self.size)
        left, top, right, bottom = (edge - self.origin[i % 2] for i, edge in enumerate(self.cell))
        inside = np.zeros_like(filled)
        inside[max(top, 0) : bottom, max(left, 0) : right] = True
        return filled & inside

    def annotated(self) -> ndarray:
        """(height, width) bool: pixels of the picture whose centres are in any region of the
        slide.
        """
        picture = shapely.box(*self.origin, *np.add(self.origin, self.size))
        parts = shapely.get_parts(shapely.intersection(self.area, picture))
        return fill_polygon(
            shapely.multipolygons(parts[shapely.area(parts) > 0]), self.origin, self.size
        )


def cut_regions(
    area: BaseGeometry, work_size_px: tuple[int, int], context_px: int
) -> Iterator[RegionWindow]:
    """Yield the windows over every polygon of ``area``, in work px, from top to bottom.

    A cell is at most ``context_px`` wide and high. Its picture includes every training window of
    this size that contains the whole cell, and at least ``LEAST_CONTEXT_PX`` around the cell, as
    far as the slide reaches.
    """
    polygons = [part for part in shapely.get_parts(area) if part.area > 0]
    for region in sorted(polygons, key=lambda part: part.bounds[1::-1]):
        edges = [_edges(region.bounds[i], region.bounds[i + 2], context_px) for i in (0, 1)]
        for top, bottom in pairwise(edges[1]):
            for left, right in pairwise(edges[0]):
                if region.intersects(shapely.box(left, top, right, bottom)):
                    yield _window(
                        region, (left, top, right, bottom), area, work_size_px, context_px
                    )


class DrawnRegions:
    """An open slide whose regions are read at ``mpp``.

    Its stains and appearance are measured as in ``muse step tissue``, so that training and runs
    normalise alike.
    """

    def __init__(self, slide: Slide, info: SlideInfo, mpp: float, enlarge: bool):
        self.info, self.mpp = info, mpp
        self._reader = AreaReader(slide, info, mpp, enlarge=enlarge)
        self.tissue = find_tissue(slide, info).tissue
        self.colour = measure_colour(slide, info, self.tissue)

    def read(self, area: BaseGeometry, context_px: int) -> Iterator[tuple[RegionWindow, ndarray]]:
        """Yield the windows over ``area``, in work px (``cut_regions``), and their pixels (h, w, 3)
        uint8.
        """
        for window in cut_regions(area, self._reader.size_px, context_px):
            yield window, self._reader.read(window.origin, window.size)

    def in_tissue(self, xy: ndarray) -> ndarray:
        """(N,) bool: True for positions (N, 2), in work px, in tissue, and for all if no tissue was
        found.
        """
        if self.tissue.is_empty:  # as in fluorescence images
            return np.ones(len(xy), bool)
        return self.tissue.kept.contains(work_to_level0(xy, self.info.mpp, self.mpp), self.info.mpp)

    def describe(self, prefix: str, window: RegionWindow) -> dict[str, Any]:
        """Attributes of the image of a window, whose name has the corner of its cell in absolute
        level-0 px.
        """
        x, y = (
            work_to_level0(np.array(window.cell[:2]), self.info.mpp, self.mpp).round().astype(int)
        )
        colour = {"stain": self.colour.macenko, "appearance": self.colour.appearance}
        return {
            "name": f"{prefix}_x{x}_y{y}",
            "region": window.mask(),
            "annotated": window.annotated(),
            **colour,
        }


@contextmanager
def open_regions(
    path: Path | str, info: SlideInfo, mpp: float, enlarge: bool = False
) -> Iterator[DrawnRegions]:
    """Open a slide to read its regions at ``mpp``; with ``enlarge``, it may be coarser, as in a
    run.
    """
    with open_slide(path, info.reader) as slide:
        yield DrawnRegions(slide, info, mpp, enlarge)


def fill_polygon(polygon: BaseGeometry, origin: tuple[int, int], size: tuple[int, int]) -> ndarray:
    """(height, width) bool: pixels whose centres lie in a polygon or multipolygon, holes excluded.

    Along each row of pixel centres, every crossed edge toggles between inside and outside (even-odd
    rule). The picture has its top left corner at ``origin`` (x, y) in the frame of the polygon.
    """
    rings = shapely.get_rings(shapely.get_parts(polygon))
    turns = np.zeros((size[1], size[0] + 1), np.int32)
    rows_of_centres = np.arange(size[1]) + 0.5
    for ring in rings:
        xy = shapely.get_coordinates(ring) - origin
        for (x0, y0), (x1, y1) in pairwise(xy):
            first, last = np.searchsorted(rows_of_centres, sorted((y0, y1)))
            if first == last:
                continue
            crossing = x0 + (rows_of_centres[first:last] - y0) * ((x1 - x0) / (y1 - y0))
            # Toggle at the first pixel centre at or right of the crossing, or in the extra column
            # if there is none.
            turns[np.arange(first, last), np.ceil(crossing - 0.5).clip(0, size[0]).astype(int)] += 1
    return turns.cumsum(1)[:, :-1] % 2 == 1


def _edges(low: float, high: float, longest: int) -> ndarray:
    """Integers that divide [low, high] into half-open cells of about equal width; the last one is
    above ``high``.
    """
    first, last = int(np.floor(low)), int(np.floor(high)) + 1
    n_cells = -(-(last - first) // longest)
    return np.linspace(first, last, n_cells + 1).round().astype(int)


def _window(
    region: BaseGeometry,
    cell: tuple[int, int, int, int],
    area: BaseGeometry,
    work_size_px: tuple[int, int],
    context_px: int,
) -> RegionWindow:
    origin, size = [], []
    for i in (0, 1):
        low, high = cell[i], cell[i + 2]
        margin = max(context_px - (high - low), LEAST_CONTEXT_PX)
        start = max(low - margin, 0)
        stop = min(high + margin, work_size_px[i])
        origin.append(int(start))
        size.append(int(stop - start))
    return RegionWindow(region, tuple(int(edge) for edge in cell), area, tuple(origin), tuple(size))
