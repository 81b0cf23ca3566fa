"""Probability maps of tissue regions over a slide: fixed windows in fixed batches, as for nuclei.

A window's core owns its cells; the rest is halo. Every cell of the slide belongs to one window, so cores are simply put
side by side. Results depend on slide and card only, never on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np

from muse_pipeline.core.environment import find_versions
from muse_pipeline.core.process import map_in_order
from muse_pipeline.inference.card import RegionCard
from muse_pipeline.inference.predictor import RegionPredictor
from muse_pipeline.store.grid import Shard, WindowGrid
from muse_pipeline.store.store import Store

PACKAGES = (
    "muse-pipeline",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "opencv-python-headless",
)


@dataclass(frozen=True)
class SlideMap:
    """The maps of a whole slide.

    Attributes:
        card: card of the model.
        prob: (C, H, W) uint8, probabilities times 255; cell (i, j) covers work pixels from (i, j) * ``card.cell_px``.
        tissue: (H, W) bool, True where nuclei are kept.
        facts: provenance: slide, model, colours and versions.
    """

    card: RegionCard
    prob: np.ndarray
    tissue: np.ndarray
    facts: dict[str, Any]

    @property
    def cell_um(self) -> float:
        """Side of a cell, um."""
        return self.card.cell_px * self.card.mpp


def map_slide(
    store: Store,
    predictor: RegionPredictor,
    colour: np.ndarray,
    *,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> SlideMap:
    """Map the regions of a slide.

    Args:
        store: the slide's image at an mpp that divides the card's.
        predictor: the model.
        colour: (3, 4) map, see ``inference.colour_input``.
        threads: number of batches run at the same time.
        progress: function called with (batches done, batches in all).

    Raises:
        StoreError: the store's mpp does not divide the card's, a chunk is damaged, or the store was replaced meanwhile.
    """
    cv2.setNumThreads(1)
    card, store = predictor.card, store.at(predictor.card.mpp)
    grid = WindowGrid(store.size_px, card.input_px, card.halo_px)
    batches = Shard(1, 1).batches(grid.windows_with_tissue(*store.tissue), card.batch)
    width, height = (-(-side // card.cell_px) for side in store.size_px)
    prob = np.zeros((len(card.classes), height, width), np.uint8)
    run_batch = partial(_run_batch, store=store, predictor=predictor, colour=colour, grid=grid)
    for done, maps in enumerate(map_in_order(run_batch, batches, threads), 1):
        corners = grid.core_xy(batches[done - 1]) // card.cell_px
        for (x, y), found in zip(corners.tolist(), maps, strict=True):
            part = prob[:, y : y + found.shape[1], x : x + found.shape[2]]
            part[:] = found[:, : part.shape[1], : part.shape[2]]
        if progress:
            progress(done, len(batches))
    store.require_unchanged()
    tissue = tissue_on_cells(store, card.cell_px)
    prob[:, ~tissue] = 0
    return SlideMap(card, prob, tissue, _describe(store, predictor, colour))


def _run_batch(
    windows: np.ndarray, store: Store, predictor: RegionPredictor, colour: np.ndarray, grid: WindowGrid
) -> np.ndarray:
    """Maps (n, C, core, core) uint8 of n windows."""
    card = predictor.card
    part = grid.part(windows, *store.tissue, card.stride_px) if predictor.any_size else grid.whole
    pixels = np.full((card.batch, part.height, part.width, 3), 255, np.uint8)
    for slot, corner in enumerate(grid.part_xy(windows, part)):
        pixels[slot] = store.read(tuple(corner), (part.width, part.height))
    prob = predictor(pixels, colour)[: len(windows)]
    scaled = np.rint(prob.clip(0, 1) * 255).astype(np.uint8)
    x, y = ((start - grid.halo_px) // card.cell_px for start in (part.x, part.y))  # of the part in the core, in cells
    core = grid.core_px // card.cell_px
    found = np.zeros((len(windows), len(card.classes), core, core), np.uint8)
    inside = scaled[:, :, max(-y, 0) : core - y, max(-x, 0) : core - x]
    top, left = max(y, 0), max(x, 0)
    found[:, :, top : top + inside.shape[2], left : left + inside.shape[3]] = inside
    return found


def _describe(store: Store, predictor: RegionPredictor, colour: np.ndarray) -> dict[str, Any]:
    return {
        "slide_id": store.slide_id,
        "fingerprint": store.fingerprint,
        "size_px": list(store.size_px),
        "slide_mpp": list(store.slide_mpp),
        "tissue_sha256": store.attributes.get("tissue_sha256"),
        "card": predictor.card.to_json(),
        "model_sha256": predictor.sha256,
        "provider": predictor.provider,
        "colour": colour.tolist(),
        "versions": find_versions(PACKAGES),
    }


def tissue_on_cells(store: Store, cell_px: int) -> np.ndarray:
    """(H, W) bool: True for cells of ``cell_px`` work pixels whose centre is where nuclei are kept."""
    mask, mask_px = store.tissue
    rows, columns = (
        ((np.arange(-(-side // cell_px)) + 0.5) * (cell_px / mask_px)).astype(int).clip(0, n - 1)
        for side, n in zip(store.size_px[::-1], mask.shape, strict=True)
    )
    return mask[np.ix_(rows, columns)]
