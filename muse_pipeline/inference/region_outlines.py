"""Polygons of regions from a map of probabilities; they tile the tissue without gaps or overlaps."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import shapely

from muse_pipeline.inference.region_maps import SlideMap
from muse_pipeline.store.store import TISSUE_UM
from muse_pipeline.tissue.mask import KEEP_UM

RIM_UM = KEEP_UM + TISSUE_UM  # of the tissue as a store has it, what lies around the tissue that was found
# An outline is nowhere further from the sides of the cells than half a cell, 4 um at 2 um/px: sqrt(2) / 4 for going
# through the middles of the sides, and the rest for leaving out vertices.
SIMPLIFIED_BY = 0.14  # cells


@dataclass(frozen=True, eq=False)
class Outlines:
    """Polygons of regions, in cells of the map; a border between two of them has the same vertices in both.

    Attributes:
        polygons: (N,) valid polygons, perhaps with holes, from top to bottom.
        label: (N,) index of the class.
    """

    polygons: np.ndarray
    label: np.ndarray


def classify(found: SlideMap) -> np.ndarray:
    """(H, W) uint8: 0 without tissue, else 1 + the likeliest class, without small islands and holes."""
    label = np.where(found.tissue, found.prob.argmax(0).astype(np.uint8) + 1, 0).astype(np.uint8)
    continue_to_edge(label, RIM_UM / found.cell_um)
    absorb_islands(label, round(found.card.min_area_mm2 * 1e6 / found.cell_um**2))
    return label


def continue_to_edge(label: np.ndarray, rim_cells: float) -> None:
    """Give the rim of the tissue, which is mostly glass, to the class of the nearest cell inside, in place.

    Otherwise glass around tumour would appear as a seam of other tissue. Tissue that is all rim keeps its classes.

    Args:
        label: (H, W) uint8, 0 for no tissue.
        rim_cells: width of the rim.
    """
    framed = np.pad(label > 0, 1).view(np.uint8)
    inner = (cv2.distanceTransform(framed, cv2.DIST_L2, 5) > rim_cells).astype(np.uint8)[1:-1, 1:-1]
    if not inner.any():
        return
    distance, nearest = cv2.distanceTransformWithLabels(1 - inner, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    value = np.zeros(nearest.max() + 1, np.uint8)
    value[nearest[inner > 0]] = label[inner > 0]
    rim = (label > 0) & (inner == 0) & (distance <= rim_cells + 2)
    label[rim] = value[nearest[rim]]


def absorb_islands(label: np.ndarray, min_cells: int) -> None:
    """Give islands of fewer than ``min_cells`` to the class that most of their border touches, in place.

    The smallest are absorbed first. One that touches no other class, such as a small island of tissue, is kept.

    Args:
        label: (H, W) uint8, 0 for no tissue.
        min_cells: area of the smallest island that is kept.
    """
    small = []
    for value in range(1, int(label.max(initial=0)) + 1):
        n, marks, stats, _ = cv2.connectedComponentsWithStats((label == value).view(np.uint8), connectivity=4)
        for mark in range(1, n):
            x, y, width, height, area = stats[mark].tolist()
            if area < min_cells:
                box = slice(y, y + height), slice(x, x + width)
                small.append((area, y, x, value, marks[box] == mark))
    for _, y, x, value, island in sorted(small, key=lambda each: each[:4]):
        _absorb(label, y, x, value, island)


def _absorb(label: np.ndarray, y: int, x: int, value: int, island: np.ndarray) -> None:
    """Give one island, whose box begins at (x, y), to the class that touches it most."""
    top, left = max(y - 1, 0), max(x - 1, 0)
    around = label[top : y + island.shape[0] + 1, left : x + island.shape[1] + 1]  # a view
    inside = np.zeros(around.shape, np.uint8)
    inside[y - top : y - top + island.shape[0], x - left : x - left + island.shape[1]] = island
    border = cv2.dilate(inside, np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)) > inside
    touched = around[border]
    votes = np.bincount(touched[(touched > 0) & (touched != value)])
    if len(votes):
        around[inside > 0] = votes.argmax()


def trace_regions(label: np.ndarray) -> Outlines:
    """Polygons of the classes of a (H, W) uint8 map, 0 for no tissue, simplified by ``SIMPLIFIED_BY``."""
    arcs = np.array(list(map(_cut_corners, _find_arcs(label))), object)
    if not len(arcs):
        return Outlines(np.zeros(0, object), np.zeros(0, int))
    simple = shapely.simplify(arcs, SIMPLIFIED_BY, preserve_topology=False)
    faces = _faces(simple)
    while len(wrong := _overlaps(faces)):  # an arc as it was crosses no other
        hit = shapely.STRtree(simple).query(wrong, predicate="intersects")[1]
        if (simple[hit] == arcs[hit]).all():
            hit = np.arange(len(arcs))
        simple[hit] = arcs[hit]
        faces = _faces(simple)
    column, row = np.floor(shapely.get_coordinates(shapely.point_on_surface(faces))).astype(int).T
    value = label[row.clip(0, len(label) - 1), column.clip(0, label.shape[1] - 1)].astype(int)
    kept = value > 0
    faces, value = faces[kept], value[kept]
    left, top, *_ = shapely.bounds(faces).T
    order = np.lexsort((value, left, top))
    return Outlines(faces[order], value[order] - 1)


def _find_arcs(label: np.ndarray) -> list[np.ndarray]:
    """Lines (n, 2) along the sides of cells between different values, from one point at which three meet to the next.

    Lines that meet no third are closed. Sides are followed one by one, which takes a tenth of the time of
    ``shapely.line_merge``.
    """
    ends, width = _find_sides(label)
    corners = ends.ravel()
    is_node = np.bincount(corners, minlength=1)[corners] != 2
    following = _next_sides(corners, is_node).tolist()
    unused = [True] * (len(corners) // 2)
    arcs = []
    for start in [*np.flatnonzero(is_node).tolist(), *range(0, len(corners), 2)]:
        steps, step = [], start
        while step >= 0 and unused[step >> 1]:
            unused[step >> 1] = False
            steps.append(step)
            step = following[step]
        if steps:
            positions = np.append(corners[steps], corners[steps[-1] ^ 1])
            arcs.append(np.stack([positions % width, positions // width], 1).astype(float))
    return arcs


def _find_sides(label: np.ndarray) -> tuple[np.ndarray, int]:
    """Both ends (E, 2) of every side between different values, as numbers of lattice corners, and corners per row."""
    framed, width = np.pad(label, 1), label.shape[1] + 1
    row, column = np.nonzero(framed[1:, 1:-1] != framed[:-1, 1:-1])
    flat = np.stack([row * width + column, row * width + column + 1], 1)
    row, column = np.nonzero(framed[1:-1, 1:] != framed[1:-1, :-1])
    upright = np.stack([row * width + column, (row + 1) * width + column], 1)
    return np.concatenate([flat, upright]), width


def _next_sides(corners: np.ndarray, is_node: np.ndarray) -> np.ndarray:
    """The continuation of every directed side at its end; -1 at nodes.

    Side e from its first end to its second is 2 e, and back 2 e + 1, so that ``corners[step]`` is the start of a step.
    """
    following = np.full(len(corners), -1)
    inner = np.flatnonzero(~is_node)
    one, other = inner[np.argsort(corners[inner], kind="stable")].reshape(-1, 2).T
    following[one ^ 1], following[other ^ 1] = other, one
    return following


def _cut_corners(xy: np.ndarray) -> shapely.LineString:
    """An arc through the middles of the cells' sides, which turns a staircase into a slope; open ends do not move."""
    middles = (xy[1:] + xy[:-1]) / 2
    is_ring = (xy[0] == xy[-1]).all()
    ends = (middles[:0], middles[:1]) if is_ring else (xy[:1], xy[-1:])
    return shapely.LineString(np.concatenate([ends[0], middles, ends[1]]))


def _faces(arcs: np.ndarray) -> np.ndarray:
    return np.asarray(shapely.get_parts(shapely.polygonize(arcs)), object)


def _overlaps(faces: np.ndarray) -> np.ndarray:
    """Edges (M,) at which polygons overlap or do not meet."""
    edges = shapely.coverage_invalid_edges(faces)
    return edges[~shapely.is_empty(edges)]
