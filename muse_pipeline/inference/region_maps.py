"""Probability maps of tissue regions over a slide: fixed windows in fixed batches, as for nuclei.

A window's core owns its cells; the rest is halo. Every cell of the slide belongs to one window, so shards are simply
put side by side. Results depend on slide and card only, never on the number of shards or threads.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from muse_pipeline.core.environment import find_versions
from muse_pipeline.core.errors import StoreError
from muse_pipeline.core.files import complete_file
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
class MapShard:
    """Maps of one run of windows.

    Attributes:
        windows: (n,) ascending numbers of the windows.
        maps: (n, C, core, core) uint8, probabilities times 255 on the cells of each core; 0 where nothing was computed.
        facts: ``shard``, and in ``common`` the facts that all shards of a slide share.
    """

    windows: np.ndarray
    maps: np.ndarray
    facts: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write the shard's file."""
        with complete_file(path) as partial_path, partial_path.open("wb") as file:
            facts = np.array(json.dumps(self.facts, sort_keys=True))
            np.savez_compressed(file, windows=self.windows, maps=self.maps, facts=facts)

    @classmethod
    def load(cls, path: Path) -> MapShard:
        """Read a shard's file.

        Raises:
            StoreError: the file is missing or damaged.
        """
        try:
            with np.load(path) as arrays:
                return cls(arrays["windows"], arrays["maps"], json.loads(str(arrays["facts"])))
        except FileNotFoundError as error:
            raise StoreError(f"{path}: no such shard; run `muse regions --shard` for it") from error
        except Exception as error:  # whatever NumPy and zipfile raise on foreign bytes
            raise StoreError(f"{path}: not a complete shard of `muse regions`; delete it and run that again") from error


@dataclass(frozen=True)
class SlideMap:
    """The maps of a whole slide.

    Attributes:
        card: card of the model.
        prob: (C, H, W) uint8, probabilities times 255; cell (i, j) covers work pixels from (i, j) * ``card.cell_px``.
        tissue: (H, W) bool, True where nuclei are kept.
        facts: facts that all shards share.
    """

    card: RegionCard
    prob: np.ndarray
    tissue: np.ndarray
    facts: dict[str, Any]

    @property
    def cell_um(self) -> float:
        """Side of a cell, um."""
        return self.card.cell_px * self.card.mpp


def region_grid(store: Store, card: RegionCard) -> WindowGrid:
    """The windows of a store at the card's mpp."""
    return WindowGrid(store.size_px, card.input_px, card.halo_px)


def map_shard(
    store: Store,
    predictor: RegionPredictor,
    colour: np.ndarray,
    shard: Shard,
    *,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> MapShard:
    """Map the regions of one shard.

    Args:
        store: the slide's image at an mpp that divides the card's.
        predictor: the model.
        colour: (3, 4) map, see ``inference.colour_input``.
        shard: shard whose batches are run.
        threads: number of batches run at the same time.
        progress: function called with (batches done, batches in all).

    Raises:
        StoreError: the store's mpp does not divide the card's, a chunk is damaged, or the store was replaced meanwhile.
    """
    cv2.setNumThreads(1)
    card, store = predictor.card, store.at(predictor.card.mpp)
    grid = region_grid(store, card)
    batches = shard.batches(grid.windows_with_tissue(*store.tissue), card.batch)
    core = grid.core_px // card.cell_px
    maps = np.zeros((sum(map(len, batches)), len(card.classes), core, core), np.uint8)
    run_batch = partial(_run_batch, store=store, predictor=predictor, colour=colour, grid=grid)
    n_written = 0
    for done, found in enumerate(map_in_order(run_batch, batches, threads), 1):
        maps[n_written : n_written + len(found)] = found
        n_written += len(found)
        if progress:
            progress(done, len(batches))
    store.require_unchanged()
    windows = np.concatenate([np.zeros(0, int), *batches])
    return MapShard(windows, maps, {"shard": str(shard), "common": _common_facts(store, predictor, colour)})


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


def _common_facts(store: Store, predictor: RegionPredictor, colour: np.ndarray) -> dict[str, Any]:
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


def join_shards(shards: Sequence[MapShard], store: Store) -> SlideMap:
    """Put the shards of a slide side by side.

    Args:
        shards: all shards of one cut, in any order.
        store: the slide's image.

    Raises:
        StoreError: a shard is missing, doubled, or of another slide, model or version.
    """
    first = shards[0].facts["common"]
    given = sorted((Shard.parse(shard.facts["shard"]) for shard in shards), key=lambda shard: shard.index)
    if given != [Shard(index, given[0].count) for index in range(1, given[0].count + 1)]:
        named = ", ".join(map(str, given))
        raise StoreError(f"{store.path}: found shards {named}; give each of the {given[0].count} exactly once")
    if any(shard.facts["common"] != first for shard in shards) or first["fingerprint"] != store.fingerprint:
        raise StoreError(
            f"{store.path}: its shards were made from different slides, models or versions; delete them and run "
            "`muse regions --shard` again"
        )
    card = RegionCard.from_json(first["card"], str(store.path))
    store = store.at(card.mpp)
    grid, cell_px = region_grid(store, card), card.cell_px
    width, height = (-(-side // cell_px) for side in store.size_px)
    prob = np.zeros((len(card.classes), height, width), np.uint8)
    for shard in shards:
        corners = grid.core_xy(shard.windows).reshape(-1, 2) // cell_px
        for (x, y), found in zip(corners.tolist(), shard.maps, strict=True):
            part = prob[:, y : y + found.shape[1], x : x + found.shape[2]]
            part[:] = found[:, : part.shape[1], : part.shape[2]]
    tissue = tissue_on_cells(store, cell_px)
    prob[:, ~tissue] = 0
    return SlideMap(card, prob, tissue, first)


def tissue_on_cells(store: Store, cell_px: int) -> np.ndarray:
    """(H, W) bool: True for cells of ``cell_px`` work pixels whose centre is where nuclei are kept."""
    mask, mask_px = store.tissue
    rows, columns = (
        ((np.arange(-(-side // cell_px)) + 0.5) * (cell_px / mask_px)).astype(int).clip(0, n - 1)
        for side, n in zip(store.size_px[::-1], mask.shape, strict=True)
    )
    return mask[np.ix_(rows, columns)]
