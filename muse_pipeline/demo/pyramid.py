"""A tiled, JPEG-compressed pyramid in the manner of Aperio's scanners, written block by block.

Levels are 1, 4 and 16 times smaller. Only compressed tiles of one row of blocks, one row of the smallest level's tiles
and a thumbnail are held at a time; finished tiles of the smaller levels wait in a temporary file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryFile

import cv2
import numpy as np
import tifffile

TILE_PX, BLOCK_PX = 256, 1024  # a block is one tile of the level that is four times smaller
QUALITY = 80
PaintBlock = Callable[[int, int], np.ndarray]


class TileSpool:
    """Compressed tiles of one level, waiting on disk until that level is written."""

    def __init__(self) -> None:
        self._file = TemporaryFile()  # noqa: SIM115  closed, and gone, when drained
        self._lengths: list[int] = []

    def add(self, tile: bytes) -> None:
        """Append a tile."""
        self._file.write(tile)
        self._lengths.append(len(tile))

    def drain(self) -> Iterator[bytes]:
        """Give all tiles in the order in which they came."""
        self._file.seek(0)
        for length in self._lengths:
            yield self._file.read(length)
        self._file.close()


class PyramidPainter:
    """Paints rows of blocks and hands out their tiles; what the smaller levels need is set aside on the way.

    Args:
        paint: gives the (BLOCK_PX, BLOCK_PX, 3) uint8 pixels of a block in (column, row) of blocks.
        n_blocks: (columns, rows).
        threads: how many blocks are painted at a time.
    """

    def __init__(self, paint: PaintBlock, n_blocks: tuple[int, int], threads: int) -> None:
        self.paint, self.n_blocks, self.threads = paint, n_blocks, threads
        self.quarter, self.sixteenth = TileSpool(), TileSpool()
        self.thumbnail = np.full((n_blocks[1] * 16, n_blocks[0] * 16, 3), 255, np.uint8)
        self._strip = np.full((TILE_PX, -(-n_blocks[0] // 4) * TILE_PX, 3), 255, np.uint8)

    def tiles(self) -> Iterator[bytes]:
        """Level 0, tile by tile."""
        columns, rows = self.n_blocks
        with ThreadPoolExecutor(self.threads, initializer=disable_ipp) as pool:
            for row in range(rows):
                blocks = list(pool.map(lambda column, row=row: self._block(column, row), range(columns)))
                self._set_aside(row, blocks)
                for line in range(BLOCK_PX // TILE_PX):
                    for tiles, *_ in blocks:
                        yield from tiles[line]

    def _block(self, column: int, row: int) -> tuple[list[list[bytes]], bytes, np.ndarray]:
        pixels = self.paint(column, row)
        starts = range(0, BLOCK_PX, TILE_PX)
        tiles = [[encode(pixels[y : y + TILE_PX, x : x + TILE_PX]) for x in starts] for y in starts]
        quarter = cv2.resize(pixels, None, fx=1 / 4, fy=1 / 4, interpolation=cv2.INTER_AREA)
        return tiles, encode(quarter), cv2.resize(quarter, None, fx=1 / 4, fy=1 / 4, interpolation=cv2.INTER_AREA)

    def _set_aside(self, row: int, blocks: list) -> None:
        for column, (_, quarter, small) in enumerate(blocks):
            self.quarter.add(quarter)
            self._strip[row % 4 * 64 :][:64, column * 64 : column * 64 + 64] = small
            tiny = cv2.resize(small, (16, 16), interpolation=cv2.INTER_AREA)
            self.thumbnail[row * 16 : row * 16 + 16, column * 16 : column * 16 + 16] = tiny
        if row % 4 == 3 or row == self.n_blocks[1] - 1:
            for x in range(0, self._strip.shape[1], TILE_PX):
                self.sixteenth.add(encode(self._strip[:, x : x + TILE_PX]))
            self._strip[:] = 255


def disable_ipp() -> None:
    """Draw without Intel's IPP in this thread: its last bits depend on how memory is aligned."""
    cv2.ipp.setUseIPP(False)


def encode(rgb: np.ndarray) -> bytes:
    """JPEG with halved colour resolution in both directions."""
    sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    return cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY, *sampling])[1].tobytes()


def write_pyramid(path: Path, paint: PaintBlock, n_blocks: tuple[int, int], mpp: float, threads: int) -> None:
    """Write the slide to ``path``: level 0, thumbnail, smaller levels; the order that Aperio's readers expect."""
    painter = PyramidPainter(paint, n_blocks, threads)
    width, height = (n * BLOCK_PX for n in n_blocks)
    plain = {"metadata": None, "software": False}
    jpeg = {"photometric": "ycbcr", "compression": "jpeg", "subsampling": (2, 2)}
    tiled = {**plain, **jpeg, "dtype": np.uint8, "tile": (TILE_PX, TILE_PX)}
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(
            painter.tiles(),
            shape=(height, width, 3),
            description=describe(width, height, mpp),
            resolution=(1e4 / mpp, 1e4 / mpp),
            resolutionunit="CENTIMETER",
            **tiled,
        )
        tiff.write(painter.thumbnail, photometric="rgb", description="Aperio thumbnail", **plain)
        for times, spool in ((4, painter.quarter), (16, painter.sixteenth)):
            tiff.write(spool.drain(), shape=(height // times, width // times, 3), description="Aperio level", **tiled)


def describe(width: int, height: int, mpp: float) -> str:
    """The description by which OpenSlide and tiffslide recognise the format and learn the size of a pixel."""
    return (
        f"Aperio Image Library v0 (drawn by muse demo-slide)\r\n{width}x{height} ({TILE_PX}x{TILE_PX}) JPEG/RGB "
        f"Q={QUALITY}|AppMag = {10 / mpp:g}|MPP = {mpp:g}"
    )
