"""The image of the viewer: a pyramid of JPEG tiles made from a store, with glass where nothing was stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg

from muse_pipeline.core.process import map_in_order
from muse_pipeline.store.store import BACKGROUND, PYRAMID, Store
from muse_pipeline.tissue.background import estimate_glass

TILE_PX = 1024
QUALITY = 75


@dataclass(frozen=True)
class Block:
    """A square of 2 x 2 tiles of a level of the pyramid, which is also one tile of the level above.

    Attributes:
        level: level of its four tiles; 0 has the store's pixels.
        column: column of the tile of the level above.
        row: row of the tile of the level above.
    """

    level: int
    column: int
    row: int


def write_tiles(store: Store, folder: Path, threads: int = 1) -> dict[str, Any]:
    """Write ``LEVEL/COLUMN_ROW.jpg`` for every tile with stored pixels; level k is reduced ``2**k`` times.

    Memory is bounded by a block of four tiles per thread, and for levels reduced 64 times and more, which are read from
    the store's smallest level, by the size of a glass slide.

    Returns:
        Size and um per pixel of level 0, side of a tile, colour of the glass, and for every level the tiles that exist
        as "COLUMN_ROW".
    """
    n_levels, glass = count_levels(store.size_px), read_glass(store)
    plate = np.broadcast_to(glass, (2 * TILE_PX, 2 * TILE_PX, 3)).copy()
    for level in range(n_levels):
        (folder / str(level)).mkdir(parents=True)
    found: list[list[str]] = [[] for _ in range(n_levels)]
    for written in map_in_order(
        lambda block: _write_block(store, block, folder, n_levels, plate), _blocks(store), threads
    ):
        for level, name in written:
            found[level].append(name)
    return {
        "size_px": list(store.size_px),
        "mpp": store.mpp,
        "tile_px": TILE_PX,
        "glass": glass.tolist(),
        "tiles": found,
    }


def read_glass(store: Store) -> np.ndarray:
    """(3,) uint8, the colour of the glass around the tissue."""
    smallest = store.at(store.mpp * PYRAMID[-1])
    return np.round(estimate_glass(smallest.read((0, 0), smallest.size_px))).astype(np.uint8)


def count_levels(size_px: tuple[int, int]) -> int:
    """Levels down to the first that is a single tile."""
    n_tiles = -(-max(size_px) // TILE_PX)
    return (n_tiles - 1).bit_length() + 1


def _blocks(store: Store) -> Iterator[Block]:
    for level in range(0, count_levels(store.size_px), 2):
        columns, rows = (-(-side // (2 * TILE_PX << level)) for side in store.size_px)
        yield from (Block(level, column, row) for row in range(rows) for column in range(columns))


def _write_block(store: Store, block: Block, folder: Path, n_levels: int, glass: np.ndarray) -> list[tuple[int, str]]:
    """Write the tiles of a block and the one above them; returns (level, name) of those that have stored pixels.

    ``glass`` (2 * TILE_PX, 2 * TILE_PX, 3) has the colour for pixels that were not stored, which read as white.
    """
    level_store = store.at(store.mpp * 2**block.level)
    corner = 2 * TILE_PX * block.column, 2 * TILE_PX * block.row
    size = [min(2 * TILE_PX, side - start) for side, start in zip(level_store.size_px, corner, strict=True)]
    pixels = level_store.read(corner, tuple(size))
    tiles = {
        f"{2 * block.column + column}_{2 * block.row + row}": tile
        for row, column in np.ndindex(-(-size[1] // TILE_PX), -(-size[0] // TILE_PX))
        if (tile := _part(pixels, row, column)).min() < BACKGROUND
    }
    if not tiles:
        return []
    white = cv2.inRange(pixels, (BACKGROUND,) * 3, (BACKGROUND,) * 3)
    cv2.copyTo(glass[: size[1], : size[0]], white, pixels)
    for name, tile in tiles.items():
        _write_tile(tile, folder / f"{block.level}/{name}.jpg")
    written = [(block.level, name) for name in tiles]
    if block.level + 1 < n_levels:
        half = cv2.resize(pixels, (-(-size[0] // 2), -(-size[1] // 2)), interpolation=cv2.INTER_AREA)
        name = f"{block.column}_{block.row}"
        written.append((block.level + 1, name))
        _write_tile(half, folder / f"{block.level + 1}/{name}.jpg")
    return written


def _part(pixels: np.ndarray, row: int, column: int) -> np.ndarray:
    """One of the four tiles of a block."""
    return pixels[row * TILE_PX : (row + 1) * TILE_PX, column * TILE_PX : (column + 1) * TILE_PX]


def _write_tile(pixels: np.ndarray, path: Path) -> None:
    path.write_bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), QUALITY, colorsubsampling="420"))
