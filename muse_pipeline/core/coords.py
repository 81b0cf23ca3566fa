"""Coordinate conventions, and all conversions between frames.

Pixel (i, j) covers [i, i+1) x [j, j+1); its centre is (i + 0.5, j + 0.5). Positions are ``(x, y)``,
but arrays are indexed ``[row, column]``. There are three frames: **level0** (absolute level-0
pixels as the reader counts them), **work** (the pixels of a store, with the same mpp in both
directions) and **window** (a crop of work). Only the functions with ``index`` in their names shift
by half a pixel.

GeoJSON counts level-0 pixels from a different origin, ``qupath_offset_px``: writers subtract it,
readers add it.
"""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from muse_pipeline.core.errors import GeoJSONError
from muse_pipeline.core.types import GEOJSON_FRAMES, Bounds

CELL_PX = 4  # side of a cell in a network's dense maps, in window pixels


def level0_to_work(xy: ndarray, slide_mpp: tuple[float, float], work_mpp: float) -> ndarray:
    """Convert positions (..., 2) from level-0 pixels to pixels of the store at ``work_mpp``."""
    return np.asarray(xy, float) * (np.asarray(slide_mpp, float) / work_mpp)


def work_to_level0(xy: ndarray, slide_mpp: tuple[float, float], work_mpp: float) -> ndarray:
    """Convert positions (..., 2) from pixels of the store at ``work_mpp`` to level-0 pixels."""
    return np.asarray(xy, float) * (work_mpp / np.asarray(slide_mpp, float))


def window_to_work(xy: ndarray, origin_xy: ndarray) -> ndarray:
    """Convert positions (..., 2) in a window, whose top left corner is at ``origin_xy``, to work
    pixels.
    """
    return np.asarray(xy, float) + origin_xy


def work_size_px(
    size_px: tuple[int, int], slide_mpp: tuple[float, float], work_mpp: float
) -> tuple[int, int]:
    """(width, height) in work pixels that covers a slide of ``size_px``; the last column and row
    may be partial.
    """
    # Rounding errors of the product must not add a row or a column.
    width, height = np.ceil(level0_to_work(np.array(size_px), slide_mpp, work_mpp) - 1e-6).astype(
        int
    )
    return int(width), int(height)


def row_column_index_to_xy(row_column: ndarray) -> ndarray:
    """Convert pixel indices (N, 2) as (row, column), as in many label files, to (x, y) of pixel
    centres.
    """
    return np.asarray(row_column, float)[..., ::-1] + 0.5


def xy_index_to_xy(xy: ndarray) -> ndarray:
    """Convert pixel indices (N, 2) as (x, y) to positions of pixel centres."""
    return np.asarray(xy, float) + 0.5


def xy_to_xy_index(xy: ndarray) -> ndarray:
    """Convert positions (..., 2) to fractional pixel indices (x, y), as in drawing libraries."""
    return np.asarray(xy, float) - 0.5


def qupath_offset_px(bounds: Bounds | None, frame: str = "qupath") -> tuple[int, int]:
    """(x, y) of the origin of GeoJSON, in absolute level-0 pixels.

    The frame "qupath" counts from the corner of the scanner's ``bounds``, "openslide" from the
    corner of level 0.
    """
    if frame not in GEOJSON_FRAMES:
        raise GeoJSONError(f"frame '{frame}' is unknown; choose one of {', '.join(GEOJSON_FRAMES)}")
    return (bounds.x, bounds.y) if frame == "qupath" and bounds else (0, 0)
