"""Detection of one shard of one slide: fixed windows through the model, reports into a file."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from muse_pipeline.errors import ModelError
from muse_pipeline.files import complete_file
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.inference.shards import ShardWriter
from muse_pipeline.nuclei.ownership import report_window
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.surroundings import find_versions
from muse_pipeline.tiles.grid import Shard, WindowGrid
from muse_pipeline.tiles.store import Store

PACKAGES = ("muse-pipeline", "numpy", "onnxruntime", "onnxruntime-gpu")

T, R = TypeVar("T"), TypeVar("R")


def detect_shard(
    store: Store,
    predictor: Predictor,
    colour: np.ndarray,
    shard: Shard,
    output: Path,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
    offset_px: int = 0,
) -> dict[str, Any]:
    """Find the nuclei of one shard and write them to ``output``.

    Args:
        store: the slide's image at the card's mpp.
        predictor: the model.
        colour: (3, 4), see ``inference.colour``.
        shard: which run of batches.
        output: the shard's file.
        threads: windows that are read and run at the same time; never changes a result.
        progress: called with (batches done, batches in all).
        offset_px: shift of the window grid; 0 except to test that results do not depend on it.

    Returns:
        The facts that are written into the file: grid, model, slide, windows that were full.

    Raises:
        ModelError: the store's mpp is not the card's.
    """
    card = predictor.card
    if abs(store.mpp / card.mpp - 1) > 1e-6:
        raise ModelError(
            f"{store.path}: stored at {store.mpp:g} um/px, but model '{card.name}' works at {card.mpp:g} um/px; "
            f"tile the slide at {card.mpp:g} or choose another model"
        )
    grid = WindowGrid(store.size_px, card.input_px, card.halo_px, offset_px)
    batches = shard.batches(grid.windows_with_tissue(*store.tissue), card.batch)

    def run_batch(windows: np.ndarray) -> tuple[np.ndarray, list[Nuclei]]:
        pixels = np.full((card.batch, card.input_px, card.input_px, 3), 255, np.uint8)
        for slot, origin in enumerate(grid.origin_xy(windows)):
            pixels[slot] = store.read(tuple(origin), (card.input_px, card.input_px))
        return windows, predictor(pixels, colour)[: len(windows)]

    full: list[int] = []
    columns = len(card.classes), card.n_rays, card.embedding_dim
    with complete_file(output) as partial, ShardWriter(partial, *columns) as writer:
        for done, (windows, found) in enumerate(map_in_order(run_batch, batches, threads), 1):
            for window, nuclei in zip(windows.tolist(), found, strict=True):
                if len(nuclei) >= card.capacity:
                    full.append(window)
                writer.add(report_window(nuclei, window, grid, card.mpp), window)
            if progress:
                progress(done, len(batches))
        facts = {
            "shard": str(shard),
            "n_windows": sum(map(len, batches)),
            "full_windows": full,
            "common": _common_facts(store, predictor, grid, colour),
        }
        writer.finish(facts)
    return facts


def map_in_order(function: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """``map`` on ``threads`` threads, results in order, never more than ``threads`` + 1 items under way."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _common_facts(store: Store, predictor: Predictor, grid: WindowGrid, colour: np.ndarray) -> dict[str, Any]:
    """What every shard of a slide must say alike before they may be stitched."""
    return {
        "slide_id": store.slide_id,
        "fingerprint": store.fingerprint,
        "size_px": list(store.size_px),
        "slide_mpp": list(store.slide_mpp),
        "offset_px": grid.offset_px,
        "corrupt_fraction": store.attributes.get("corrupt_fraction", 0.0),
        "model_sha256": predictor.sha256,
        "provider": predictor.provider,
        "colour": colour.tolist(),
        "card": predictor.card.to_json(),
        "versions": find_versions(PACKAGES),
    }
