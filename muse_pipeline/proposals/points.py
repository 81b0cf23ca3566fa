"""Points from a map of foreground probability: one per nucleus, at peaks of the smoothed map.

PSM's post-processing, with its pixels of 0.25 um converted to um: blur, ignore values below one half, keep peaks at a
least distance, and merge peaks closer than the width of a nucleus.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from muse_pipeline.core.config import require_between
from muse_pipeline.core.coords import row_column_index_to_xy


@dataclass(frozen=True)
class PeakRules:
    """Rules for peaks; the defaults are those of the released code at 0.25 um/px.

    Attributes:
        blur_um: sigma of the Gaussian (13 x 13 px in the release, whose sigma is 2.3 px).
        least: least smoothed probability of a peak.
        distance_um: least distance between peaks (6 px in the release).
        border_um: least distance of a peak from the border of the picture (3 px in the release).
        merge_um: largest L1 distance of peaks that are merged at their mean (20 px in the release).
    """

    blur_um: float = 0.575
    least: float = 0.5
    distance_um: float = 1.5
    border_um: float = 0.75
    merge_um: float = 5.0

    def __post_init__(self) -> None:
        require_between(self, "points", least=(0, 1), blur_um=(0, math.inf), distance_um=(0, math.inf))
        require_between(self, "points", border_um=(0, math.inf), merge_um=(0, math.inf))


def find_points(probability: np.ndarray, mpp: float, rules: PeakRules | None = None) -> np.ndarray:
    """(N, 2) float xy in px of the nuclei in ``probability`` (h, w), 0 to 1, at ``mpp`` um per pixel; by rows."""
    rules = rules or PeakRules()
    smooth = ndimage.gaussian_filter(np.asarray(probability, np.float32), rules.blur_um / mpp)
    smooth[smooth < rules.least] = 0
    radius_px = max(1, round(rules.distance_um / mpp))
    is_peak = (smooth > 0) & (smooth == ndimage.maximum_filter(smooth, 2 * radius_px + 1))
    border_px = round(rules.border_um / mpp)
    if border_px:
        is_peak[:border_px] = is_peak[-border_px:] = is_peak[:, :border_px] = is_peak[:, -border_px:] = False
    plateaus, n = ndimage.label(is_peak, np.ones((3, 3)))  # equal neighbours are one peak
    centres = np.array(ndimage.center_of_mass(is_peak, plateaus, np.arange(1, n + 1))).reshape(n, 2)
    heights = ndimage.maximum(smooth, plateaus, np.arange(1, n + 1)) if n else np.zeros(0)
    return merge_points(row_column_index_to_xy(centres), np.asarray(heights), rules.merge_um / mpp)


def merge_points(xy: np.ndarray, height: np.ndarray, reach_px: float) -> np.ndarray:
    """Merge points that lie within ``reach_px`` of each other, |dx| + |dy|; the highest absorbs its neighbours.

    Args:
        xy: (N, 2) positions.
        height: (N,) heights; among equal ones the first has precedence.
        reach_px: largest L1 distance; 0 merges nothing.

    Returns:
        (M, 2) means of the groups, by rows.
    """
    if len(xy) == 0:
        return np.zeros((0, 2))
    near = cKDTree(xy).query_ball_point(xy, reach_px, p=1) if reach_px else [[i] for i in range(len(xy))]
    free, merged = np.ones(len(xy), bool), []
    for index in np.argsort(-height, kind="stable"):
        if free[index]:
            group = [other for other in near[index] if free[other]]
            free[group] = False
            merged.append(xy[group].mean(0))
    merged = np.array(merged)
    return merged[np.lexsort(merged.T)]


BACKGROUND, NUCLEUS, IGNORED = 0, 1, 255
DOT_UM = 0.5  # radius of a dilated point: 2 px of 0.25 um


def nearest_point(xy: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(h, w) int32: number 1..N of the point nearest to each pixel; 0 everywhere where there is none.

    Two points never share a pixel: the later one takes the nearest that is free, so that every point has a cell.
    """
    if not len(xy):
        return np.zeros(shape, np.int32)
    seeds = paint_points(xy, shape)
    rows, columns = ndimage.distance_transform_edt(seeds == 0, return_distances=False, return_indices=True)
    return seeds[rows, columns]


def paint_points(xy: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(h, w) int32: number 1..N in the one pixel of each point (N, 2); 0 elsewhere."""
    seeds = np.zeros(shape, np.int32)
    height, width = shape
    for number, (x, y) in enumerate(np.floor(xy).astype(int).tolist(), 1):
        row, column = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
        if seeds[row, column]:
            free = np.argwhere(seeds == 0)
            row, column = free[np.abs(free - (row, column)).sum(1).argmin()]
        seeds[row, column] = number
    return seeds


def voronoi_edges(cells: np.ndarray) -> np.ndarray:
    """(h, w) bool: one line of pixels between any two neighbouring cells, closed to steps across corners too.

    Of two touching pixels that belong to different cells, that of the lower number is edge: one line, not one on either
    side.
    """
    return ndimage.maximum_filter(cells, 3) > cells


def voronoi_label(xy: np.ndarray, shape: tuple[int, int], mpp: float) -> np.ndarray:
    """(h, w) uint8: NUCLEUS at dilated points (N, 2), BACKGROUND at edges of their cells, IGNORED elsewhere.

    A point on an edge is still a nucleus. ``mpp`` is um per pixel.
    """
    label = np.full(shape, IGNORED, np.uint8)
    if not len(xy):
        return label
    label[voronoi_edges(nearest_point(xy, shape))] = BACKGROUND
    radius_px = max(1, round(DOT_UM / mpp))
    label[ndimage.distance_transform_edt(paint_points(xy, shape) == 0) <= radius_px] = NUCLEUS
    return label


def split_mask(mask: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Divide a foreground among the points that lie on it.

    Args:
        mask: (h, w) bool.
        xy: (N, 2) points in px.

    Returns:
        (h, w) int32: number i + 1 where the mask belongs to point i. Within each connected part of the mask a pixel
        goes to the nearest point on that part; fragments that are cut off from their own point are left out, and so
        is every part without a point. A point beside the mask gets nothing.
    """
    instances = np.zeros(mask.shape, np.int32)
    seeds = np.where(mask, paint_points(xy, mask.shape), 0)
    parts, _ = ndimage.label(mask)
    for part, box in enumerate(ndimage.find_objects(parts), 1):
        here, mine = parts[box] == part, np.where(parts[box] == part, seeds[box], 0)
        if not mine.any():
            continue
        rows, columns = ndimage.distance_transform_edt(mine == 0, return_distances=False, return_indices=True)
        instances[box][here] = mine[rows, columns][here]
    return keep_connected(instances, seeds)


def keep_connected(instances: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """The pixels of ``instances`` (h, w) connected to the pixel of their own number in ``seeds`` (h, w)."""
    kept = np.zeros_like(instances)
    for number, box in enumerate(ndimage.find_objects(instances), 1):
        if box is None:
            continue
        components, _ = ndimage.label(instances[box] == number)
        own = components[seeds[box] == number]
        kept[box][(components == own[0]) & (components > 0)] = number
    return kept
