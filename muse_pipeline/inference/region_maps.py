"""Map the probabilities of tissue regions on a slide, in windows and batches as for nuclei, and
trace their polygons.

A window is a core and its halo. Cores are placed side by side, so every cell of the slide is in the
core of exactly one window. Results depend only on the slide and the card, never on the number of
threads. Polygons tile the tissue without gaps or overlaps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
import shapely
from numpy import ndarray

from muse_pipeline.core.environment import find_versions
from muse_pipeline.core.process import map_in_order
from muse_pipeline.inference.card import NucleusClass
from muse_pipeline.inference.predictor import RegionPredictor
from muse_pipeline.store.grid import Shard, WindowGrid, WindowPart
from muse_pipeline.store.store import TISSUE_UM, Store
from muse_pipeline.tissue.mask import KEEP_UM
from muse_pipeline.tissue.overview import strips

PACKAGES = (
    "muse-pipeline",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "opencv-python-headless",
)
RIM_UM = KEEP_UM + TISSUE_UM  # margin by which the store's tissue exceeds the tissue that was found
# Outlines lie within half a cell (4 um at 2 um/px) of the sides of cells: cutting corners through
# the middles of sides moves them by up to sqrt(2) / 4 of a cell, and leaving out vertices by up to
# ``SIMPLIFIED_BY``.
SIMPLIFIED_BY = 0.14  # cells


@dataclass(frozen=True)
class SlideMap:
    """The maps of a whole slide."""

    classes: tuple[NucleusClass, ...]  # classes of the maps
    is_inside: tuple[bool, ...]  # whether each class lies inside the border
    # (C, H, W) uint8, probabilities times 255; cell (i, j) covers the slide from (i, j) *
    # ``cell_um``
    prob: ndarray
    tissue: ndarray  # (H, W) bool, True where nuclei are kept
    # minimum area of regions and holes; smaller ones are merged into the class around them
    min_area_mm2: float
    # origin of the maps, size of a cell, slide and versions, as in ``regions.json``
    facts: dict[str, Any]
    # width of the edge of the tissue, which gets the classes of the tissue next to it
    rim_um: float = RIM_UM

    @property
    def cell_um(self) -> float:
        """Side of a cell in um."""
        return self.facts["cell_um"]


def map_slide(
    store: Store,
    predictor: RegionPredictor,
    colour: ndarray,
    *,
    where: tuple[ndarray, float] | None = None,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> SlideMap:
    """Map the regions of a slide.

    Args:
        store: the slide's image at an mpp that divides the card's.
        predictor: the model.
        colour: (3, 4) map of the slide's colours, see ``inference.stains``.
        where: mask (h, w) bool of the area to map, and the side of its pixels in pixels of the
            model; other windows get probabilities of 0. None to map all tissue.
        threads: number of batches that are run at the same time.
        progress: function called with (batches done, batches in all).
    """
    cv2.setNumThreads(1)
    card, store = predictor.card, store.at(predictor.card.mpp)
    grid = WindowGrid(store.size_px, card.input_px, card.halo_px)
    where = where or store.tissue
    batches = Shard(1, 1).batches(grid.windows_with_tissue(*where), card.batch)
    width, height = (-(-side // card.cell_px) for side in store.size_px)
    prob = np.zeros((len(card.classes), height, width), np.uint8)
    part_of = partial(grid.part, tissue=where[0], tissue_px=where[1], stride_px=card.stride_px)
    run_batch = partial(
        _run_batch, store=store, predictor=predictor, colour=colour, grid=grid, part_of=part_of
    )
    for done, maps in enumerate(map_in_order(run_batch, batches, threads), 1):
        corners = grid.core_xy(batches[done - 1]) // card.cell_px
        for (x, y), of_core in zip(corners.tolist(), maps, strict=True):
            part = prob[:, y : y + of_core.shape[1], x : x + of_core.shape[2]]
            part[:] = of_core[:, : part.shape[1], : part.shape[2]]
        if progress:
            progress(done, len(batches))
    store.require_unchanged()
    tissue = tissue_on_cells(store, card.cell_px)
    prob *= tissue
    is_inside = tuple(number > 0 for number in range(len(card.classes)))
    facts = {
        "source": "model",
        "model": {"name": card.name, "sha256": predictor.sha256},
        "card": json.loads(card.to_json()),
        "provider": predictor.provider,
        "colour": colour.tolist(),
        "cell_um": card.cell_px * card.mpp,
        **describe_slide(store, PACKAGES),
    }
    return SlideMap(card.classes, is_inside, prob, tissue, card.min_area_mm2, facts)


def _run_batch(
    windows: ndarray,
    store: Store,
    predictor: RegionPredictor,
    colour: ndarray,
    grid: WindowGrid,
    part_of: Callable[[ndarray], WindowPart],
) -> ndarray:
    """Maps (n, C, core, core) uint8 of the cores of n windows."""
    card = predictor.card
    part = part_of(windows) if predictor.any_size else grid.whole
    pixels = np.full((card.batch, part.height, part.width, 3), 255, np.uint8)
    for slot, corner in enumerate(grid.part_xy(windows, part)):
        pixels[slot] = store.read_continued(tuple(corner), (part.width, part.height))
    prob = predictor(pixels, colour)[: len(windows)]
    scaled = np.rint(prob.clip(0, 1) * 255).astype(np.uint8)
    # in cells, relative to the core
    x, y = ((start - grid.halo_px) // card.cell_px for start in (part.x, part.y))
    core = grid.core_px // card.cell_px
    maps = np.zeros((len(windows), len(card.classes), core, core), np.uint8)
    inside = scaled[:, :, max(-y, 0) : core - y, max(-x, 0) : core - x]
    top, left = max(y, 0), max(x, 0)
    maps[:, :, top : top + inside.shape[2], left : left + inside.shape[3]] = inside
    return maps


def describe_slide(store: Store, packages: Sequence[str]) -> dict[str, Any]:
    """Facts of ``SlideMap`` about the slide and the versions of ``packages``."""
    return {
        "slide_id": store.slide_id,
        "fingerprint": store.fingerprint,
        "slide_mpp": list(store.slide_mpp),
        "tissue_sha256": store.attributes.get("tissue_sha256"),
        "versions": find_versions(packages),
    }


def tissue_on_cells(store: Store, cell_px: int) -> ndarray:
    """(H, W) bool: True for cells of ``cell_px`` work pixels whose centre is in the area where
    nuclei are kept.
    """
    mask, mask_px = store.tissue
    rows, columns = (
        ((np.arange(-(-side // cell_px)) + 0.5) * (cell_px / mask_px)).astype(int).clip(0, n - 1)
        for side, n in zip(store.size_px[::-1], mask.shape, strict=True)
    )
    return mask[np.ix_(rows, columns)]


def classify(maps: SlideMap) -> ndarray:
    """(H, W) uint8: 0 without tissue, otherwise 1 + index of the likeliest class, without small
    islands and holes.
    """
    # because the result of `argmax` is eight times as large as a map
    bands = strips(len(maps.tissue), 512)
    label = np.concatenate(
        [maps.prob[:, rows].argmax(0).astype(np.uint8) for rows in bands]
    ) + np.uint8(1)
    label *= maps.tissue
    continue_to_edge(label, maps.rim_um / maps.cell_um)
    absorb_islands(label, round(maps.min_area_mm2 * 1e6 / maps.cell_um**2))
    return label


def continue_to_edge(label: ndarray, rim_cells: float) -> None:
    """Give the rim of the tissue, ``rim_cells`` wide and mostly glass, the class of the nearest
    inner cell, in place.

    Otherwise glass around tumour would appear as a seam of other tissue. Tissue that is all rim
    keeps its classes. The map (H, W) uint8 has 0 for no tissue.
    """
    # Because of the frame, tissue also ends at the edges of the map.
    framed = np.pad(label > 0, 1).view(np.uint8)
    inner = (cv2.distanceTransform(framed, cv2.DIST_L2, 5) > rim_cells).astype(np.uint8)[1:-1, 1:-1]
    if not inner.any():
        return
    distance, nearest = cv2.distanceTransformWithLabels(
        1 - inner, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    value = np.zeros(nearest.max() + 1, np.uint8)
    value[nearest[inner > 0]] = label[inner > 0]
    rim = (label > 0) & (inner == 0) & (distance <= rim_cells + 2)
    label[rim] = value[nearest[rim]]


def absorb_islands(label: ndarray, min_cells: int) -> None:
    """Assign islands of fewer than ``min_cells`` cells to the class that touches most of their
    border, in place.

    The smallest islands are absorbed first. An island that touches no other class, such as a small
    piece of tissue, is kept. The map (H, W) uint8 has 0 for no tissue.
    """
    small = []
    for value in range(1, int(label.max(initial=0)) + 1):
        n, marks, stats, _ = cv2.connectedComponentsWithStats(
            (label == value).view(np.uint8), connectivity=4
        )
        for mark in range(1, n):
            x, y, width, height, area = stats[mark].tolist()
            if area < min_cells:
                box = slice(y, y + height), slice(x, x + width)
                small.append((area, y, x, value, marks[box] == mark))
    for _, y, x, value, island in sorted(small, key=lambda entry: entry[:4]):
        _absorb(label, y, x, value, island)


def _absorb(label: ndarray, y: int, x: int, value: int, island: ndarray) -> None:
    """Assign one island, whose box begins at (x, y), to the class that touches it most."""
    top, left = max(y - 1, 0), max(x - 1, 0)
    # a view of the map
    around = label[top : y + island.shape[0] + 1, left : x + island.shape[1] + 1]
    inside = np.zeros(around.shape, np.uint8)
    inside[y - top : y - top + island.shape[0], x - left : x - left + island.shape[1]] = island
    border = cv2.dilate(inside, np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)) > inside
    touched = around[border]
    votes = np.bincount(touched[(touched > 0) & (touched != value)])
    if len(votes):
        around[inside > 0] = votes.argmax()


def trace_regions(label: ndarray) -> tuple[ndarray, ndarray]:
    """Polygons (N,) of the classes of a (H, W) uint8 map, 0 for no tissue, and the index (N,) of
    the class of each.

    Polygons are valid, may have holes, are in cells of the map, from top to bottom, and simplified
    by ``SIMPLIFIED_BY``; a border between two of them has the same vertices in both.
    """
    arcs = np.array(list(map(_cut_corners, _find_arcs(label))), object)
    if not len(arcs):
        return np.zeros(0, object), np.zeros(0, int)
    simple = shapely.simplify(arcs, SIMPLIFIED_BY, preserve_topology=False)
    faces = _faces(simple)
    while len(wrong := _overlaps(faces)):  # only simplified arcs can cross each other
        hit = shapely.STRtree(simple).query(wrong, predicate="intersects")[1]
        # If none of these arcs is simplified any more, all other arcs are restored too, which ends
        # the loop.
        if (simple[hit] == arcs[hit]).all():
            hit = np.arange(len(arcs))
        simple[hit] = arcs[hit]
        faces = _faces(simple)
    column, row = np.floor(shapely.get_coordinates(shapely.point_on_surface(faces))).astype(int).T
    value = label[row.clip(0, len(label) - 1), column.clip(0, label.shape[1] - 1)].astype(int)
    # Holes without tissue are faces too, but not regions.
    kept = value > 0
    faces, value = faces[kept], value[kept]
    left, top, *_ = shapely.bounds(faces).T
    order = np.lexsort((value, left, top))
    return faces[order], value[order] - 1


def _find_arcs(label: ndarray) -> list[ndarray]:
    """Lines (n, 2) along cell sides that separate different values; each is closed or ends where
    three or four meet.

    Sides are followed one by one, which takes a tenth of the time of ``shapely.line_merge``.
    """
    ends, width = _find_sides(label)
    corners = ends.ravel()
    is_node = np.bincount(corners, minlength=1)[corners] != 2
    following = _next_sides(corners, is_node).tolist()
    unused = [True] * (len(corners) // 2)
    arcs = []
    # Open arcs begin at nodes and come first; sides that are unused then form closed lines, which
    # may begin anywhere.
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


def _find_sides(label: ndarray) -> tuple[ndarray, int]:
    """Ends (E, 2) of sides between different values, as indices of lattice corners; number of
    corners per row.
    """
    framed, width = np.pad(label, 1), label.shape[1] + 1
    row, column = np.nonzero(framed[1:, 1:-1] != framed[:-1, 1:-1])
    flat = np.stack([row * width + column, row * width + column + 1], 1)
    row, column = np.nonzero(framed[1:-1, 1:] != framed[1:-1, :-1])
    upright = np.stack([row * width + column, (row + 1) * width + column], 1)
    return np.concatenate([flat, upright]), width


def _next_sides(corners: ndarray, is_node: ndarray) -> ndarray:
    """The directed side that continues each directed side at its end; -1 at nodes.

    Side e has the number 2 e in the direction from its first end to its second and 2 e + 1 in the
    opposite direction, so a directed side starts at ``corners[number]``.
    """
    following = np.full(len(corners), -1)
    inner = np.flatnonzero(~is_node)
    # Exactly two directed sides start at a corner that is not a node. The reverse of each (number ^
    # 1) ends there, so the other one continues it.
    first, second = inner[np.argsort(corners[inner], kind="stable")].reshape(-1, 2).T
    following[first ^ 1], following[second ^ 1] = second, first
    return following


def _cut_corners(xy: ndarray) -> shapely.LineString:
    """An arc through the middles of the cells' sides, which turns stairs into slopes; open ends do
    not move.
    """
    middles = (xy[1:] + xy[:-1]) / 2
    is_ring = (xy[0] == xy[-1]).all()
    ends = (middles[:0], middles[:1]) if is_ring else (xy[:1], xy[-1:])
    return shapely.LineString(np.concatenate([ends[0], middles, ends[1]]))


def _faces(arcs: ndarray) -> ndarray:
    return np.asarray(shapely.get_parts(shapely.polygonize(arcs)), object)


def _overlaps(faces: ndarray) -> ndarray:
    """Edges (M,) where polygons overlap or leave a gap."""
    edges = shapely.coverage_invalid_edges(faces)
    return edges[~shapely.is_empty(edges)]
