"""Map the tissue regions of a slide from the classes of its nuclei, without a network.

The class probabilities of the nuclei are summed in square cells and smoothed with a Gaussian. The
map of a class is its share of the sum of all classes and of a constant, the weight that a single
nucleus has at a distance of ``REACH_UM``; the share of the constant is the map of the area without
nuclei. docs/results/built-in-models.md shows how the Gaussian was chosen. All sums are of integers,
which are exact in any order, so the map does not depend on shards and threads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy import ndarray

from muse_pipeline.core.process import map_in_order
from muse_pipeline.core.types import FROM_NUCLEI, TISSUES, NucleusClass, SlideInfo
from muse_pipeline.inference.card import ModelCard
from muse_pipeline.inference.region_maps import SlideMap, describe_slide, tissue_on_cells
from muse_pipeline.inference.stitch import PACKAGES, ShardSet, gather_shards, resolve_stream
from muse_pipeline.store.grid import WindowGrid
from muse_pipeline.store.store import Store

NO_NUCLEI = NucleusClass("No nuclei", (200, 200, 200))
INSIDE = {"epithelium", "tumour", "tumor", "neoplastic"}  # tissues inside the border, in lower case
CELL_UM = 4.0  # side of a cell, rounded to whole pixels of the store
SIGMA_UM = 8.0  # standard deviation of the Gaussian
REACH_UM = 40.0  # greatest distance between a nucleus and its tissue
MIN_AREA_MM2 = 0.001  # glands are small
_BAND_ROWS = 128
_STEPS = (
    1 << 20
    # integer steps of the Gaussian in each direction, at which sums over dense nuclei are below
    # 2**53
)


def map_nuclei(store: Store, paths: Sequence[Path], info: SlideInfo, threads: int) -> SlideMap:
    """Map the regions of a slide from all its shards, ``threads`` bands at a time.

    Of the slide's image ``store``, only the size and the tissue are used.
    """
    cv2.setNumThreads(1)
    shards = gather_shards(list(paths), info)
    card = ModelCard.from_json(shards.common["card"], str(paths[0]))
    store = store.at(card.mpp)
    cell_px = max(1, round(CELL_UM / card.mpp))
    tissue = tissue_on_cells(store, cell_px)
    cell_um = cell_px * card.mpp
    cell, weight = _read_nuclei(shards, card, cell_px, tissue)
    prob = np.zeros((1 + len(card.classes), *tissue.shape), np.uint8)
    tops = range(0, len(tissue), _BAND_ROWS)
    reach = math.ceil(REACH_UM / cell_um)

    def map_band(top: int) -> ndarray:
        part = slice(*np.searchsorted(cell[:, 1], (top - reach, top + _BAND_ROWS + reach)))
        size = _BAND_ROWS + 2 * reach, tissue.shape[1]
        return map_shares(cell[part] - (0, top - reach), weight[part], size, cell_um)[
            :, reach:-reach
        ]

    for top, band in zip(tops, map_in_order(map_band, tops, threads), strict=True):
        prob[:, top : top + _BAND_ROWS] = band[:, : len(tissue) - top]
    prob *= tissue
    facts = {
        "source": FROM_NUCLEI,
        "model": {"name": card.name, "sha256": shards.common["model_sha256"]},
        "sigma_um": SIGMA_UM,
        "reach_um": REACH_UM,
        "cell_um": cell_um,
        **describe_slide(store, PACKAGES),
    }
    return SlideMap(*name_tissues(card.classes), prob, tissue, MIN_AREA_MM2, facts, rim_um=0.0)


def name_tissues(
    classes: Sequence[NucleusClass],
) -> tuple[tuple[NucleusClass, ...], tuple[bool, ...]]:
    """The classes of the regions that come from nuclei of ``classes``, and whether each lies inside
    the border.
    """
    tissues = [
        NucleusClass(TISSUES.get(nuclei.name.lower(), nuclei.name), nuclei.color)
        for nuclei in classes
    ]
    return (NO_NUCLEI, *tissues), (False, *(tissue.name.lower() in INSIDE for tissue in tissues))


def _read_nuclei(
    shards: ShardSet, card: ModelCard, cell_px: int, tissue: ndarray
) -> tuple[ndarray, ndarray]:
    """Cells (N, 2) int32 (x, y) of the nuclei in tissue, from top to bottom, and probabilities (N,
    C) times 255.
    """
    grid = WindowGrid(
        tuple(shards.common["size_px"]), card.input_px, card.halo_px, shards.common["offset_px"]
    )
    limit = np.array(tissue.shape[::-1]) - 1
    parts = [(np.zeros((0, 2), np.int32), np.zeros((0, len(card.classes)), np.uint8))]
    for nuclei in resolve_stream(shards.paths, grid, card.mpp):
        cell = np.floor(nuclei.xy / cell_px).astype(np.int32).clip(0, limit)
        is_kept = tissue[cell[:, 1], cell[:, 0]]
        parts.append((cell[is_kept], np.rint(nuclei.prob[is_kept] * 255).astype(np.uint8)))
    cell, weight = map(np.concatenate, zip(*parts, strict=True))
    order = np.argsort(cell[:, 1], kind="stable")
    return cell[order], weight[order]


def map_shares(
    cell: ndarray,
    weight: ndarray,
    size: tuple[int, int],
    cell_um: float,
    sigma_um: float = SIGMA_UM,
) -> ndarray:
    """Maps (1 + C, h, w) uint8 of the area without nuclei and of the classes, on (h, w) cells.

    The ``cell`` (N, 2) int (x, y) of each nucleus has the ``weight`` (N, C) uint8: probabilities
    times 255. ``REACH_UM`` changes in proportion to ``sigma_um``.
    """
    reach_um = REACH_UM * sigma_um / SIGMA_UM
    reach = math.ceil(reach_um / cell_um)
    distance_um = np.append(np.arange(-reach, reach + 1) * cell_um, reach_um)
    *kernel, alone = np.rint(_STEPS * np.exp(-((distance_um / sigma_um) ** 2) / 2))
    flat, kernel = cell[:, 1] * size[1] + cell[:, 0], np.array(kernel)
    # Without nuclei, `bincount` returns integers.
    sums = (
        np.bincount(flat, prob, math.prod(size)).astype(float).reshape(size) for prob in weight.T
    )
    smooth = [
        cv2.sepFilter2D(values, cv2.CV_64F, kernel, kernel, borderType=cv2.BORDER_CONSTANT)
        for values in sums
    ]
    weights = np.stack([np.full(size, 255 * _STEPS * alone), *smooth])
    return np.rint(255 * weights / weights.sum(0)).astype(np.uint8)
