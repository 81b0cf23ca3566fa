"""Points made into pictures of labels: Voronoi labels that part touching nuclei, and a foreground split by points.

Qu et al., "Weakly supervised deep nuclei segmentation using partial points annotation in histopathology images", IEEE
TMI 2020, is where Voronoi labels come from; PSM gives them to its last network.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

BACKGROUND, NUCLEUS, IGNORED = 0, 1, 255
DOT_UM = 0.5  # radius of a dilated point: 2 px of 0.25 um


def nearest_point(xy: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(h, w) int32: number 1..N of the point nearest to each pixel; 0 everywhere where there is none.

    Two points never share a pixel: the later one takes the nearest that is free, so that every point has a cell.
    """
    if not len(xy):
        return np.zeros(shape, np.int32)
    seeds = place_points(xy, shape)
    rows, columns = ndimage.distance_transform_edt(seeds == 0, return_distances=False, return_indices=True)
    return seeds[rows, columns]


def place_points(xy: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
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

    A point on an edge is a nucleus all the same. ``mpp`` is um per pixel.
    """
    label = np.full(shape, IGNORED, np.uint8)
    if not len(xy):
        return label
    label[voronoi_edges(nearest_point(xy, shape))] = BACKGROUND
    radius_px = max(1, round(DOT_UM / mpp))
    label[ndimage.distance_transform_edt(place_points(xy, shape) == 0) <= radius_px] = NUCLEUS
    return label


def split_mask(mask: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Share a foreground among the points that lie on it.

    Args:
        mask: (h, w) bool.
        xy: (N, 2) px.

    Returns:
        (h, w) int32: number i + 1 where the mask belongs to point i. Within each connected part of the mask a pixel
        goes to the nearest point on that part; what the lines cut off from its own point is left out, and so is every
        part without a point. A point beside the mask gets nothing.
    """
    instances = np.zeros(mask.shape, np.int32)
    seeds = np.where(mask, place_points(xy, mask.shape), 0)
    parts, _ = ndimage.label(mask)
    for part, box in enumerate(ndimage.find_objects(parts), 1):
        here, mine = parts[box] == part, np.where(parts[box] == part, seeds[box], 0)
        if not mine.any():
            continue
        rows, columns = ndimage.distance_transform_edt(mine == 0, return_distances=False, return_indices=True)
        instances[box][here] = mine[rows, columns][here]
    return keep_connected(instances, seeds)


def keep_connected(instances: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """What of ``instances`` (h, w) is connected with the pixel of its own number in ``seeds`` (h, w)."""
    kept = np.zeros_like(instances)
    for number, box in enumerate(ndimage.find_objects(instances), 1):
        if box is None:
            continue
        pieces, _ = ndimage.label(instances[box] == number)
        own = pieces[seeds[box] == number]
        kept[box][(pieces == own[0]) & (pieces > 0)] = number
    return kept
