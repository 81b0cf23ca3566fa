"""Tiles of a TIFF, decoded straight from the file: the same pixels as from OpenSlide in a fraction
of the time.

OpenSlide composites every tile with transparency, which takes several times as long as decoding a
JPEG. Here, tifffile reads the index of the tiles once, and each tile then takes one read and one
call of its codec. At the first read of a level, some of its tiles are compared with OpenSlide's
pixels; a level that differs in a single bit is left to OpenSlide, as are tiles that are missing or
damaged and levels with another compression. (Decoding is most of the work for JPEG 2000.)
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import simplejpeg
from numpy import ndarray

from muse_pipeline.core.environment import read_at
from muse_pipeline.core.errors import SlideError
from muse_pipeline.slides.base import WHITE, overlap, walk_tiles, white_canvas
from muse_pipeline.slides.tiff_pictures import complaints_of_tifffile, name_of

if TYPE_CHECKING:
    from tifffile import TiffPage


# size of the cache of decoded tiles, as in OpenSlide; enough for a row of chunks of `tile`
CACHE_BYTES = 32 << 20
MAX_DIRECTORIES = 100  # a slide has a dozen; in a damaged file, their chain may have no end
CONTIGUOUS = 1  # PlanarConfiguration of interleaved channels

Read = Callable[[tuple[int, int], int, tuple[int, int]], ndarray]


@dataclass(frozen=True, eq=False)
class TileIndex:
    """Index of the tiles of a level of ``size_px`` (width, height), which all have ``tile_px``.

    Offsets and sizes in the file are (rows, columns) int64; a tile that is not in the file has 0
    bytes.
    """

    size_px: tuple[int, int]
    tile_px: tuple[int, int]
    offsets: ndarray
    n_bytes: ndarray
    header: bytes  # beginning of the stream of every tile, from ``_jpeg_header``

    @property
    def decoded_bytes(self) -> int:
        """Size of one decoded tile, in bytes."""
        return self.tile_px[0] * self.tile_px[1] * 3


class DirectTiles:
    """Levels of a slide in one file whose tiles are decoded directly; safe to read from several
    threads.

    The sizes (width, height) of these levels are keyed by level. The file is opened at the first
    read.
    """

    def __init__(self, path: Path, level_sizes_px: Mapping[int, tuple[int, int]]):
        self._path, self._sizes = path, level_sizes_px
        self._levels: dict[int, TileIndex] | None = None
        self._agrees: dict[int, bool] = {}
        self._lock = Lock()

    def read(
        self, xy_px: tuple[int, int], level: int, size: tuple[int, int], referee: Read
    ) -> ndarray | None:
        """Read pixels of a level, as in ``SlideReader.read_level``; None if OpenSlide must read the
        region.

        At the first read of a level, some of its tiles are compared with those of the ``referee``,
        a function that reads any region of a level with OpenSlide.
        """
        if level not in self._agrees:
            with self._lock:
                if level not in self._agrees:
                    self._agrees[level] = self._compare(level, referee)
        return self._read(xy_px, level, size) if self._agrees[level] else None

    def _compare(self, level: int, referee: Read) -> bool:
        """True if the first, last and largest tile equal the referee's; those that cannot be
        decoded are skipped.
        """
        if self._levels is None:
            self._open()
        if level not in self._levels:
            return False
        index = self._levels[level]
        n_bytes = index.n_bytes.ravel()
        stored = np.flatnonzero(n_bytes)
        agree = []
        for tile in {*map(int, (*stored[:1], *stored[-1:], n_bytes.argmax()))}:
            row, column = divmod(tile, index.n_bytes.shape[1])
            region = (column * index.tile_px[0], row * index.tile_px[1]), level, index.tile_px
            # otherwise, OpenSlide always reads this tile
            if (pixels := self._read(*region)) is not None:
                try:
                    agree.append(np.array_equal(pixels, referee(*region)))
                except SlideError:
                    agree.append(False)
        return bool(agree) and all(agree)

    def _open(self) -> None:
        self._levels = _index_levels(self._path, self._sizes)
        gc.collect(1)  # tifffile's pages form cycles and hold 80 bytes for every tile of the slide
        if not self._levels:
            return
        try:
            file = self._path.open("rb", buffering=0)
        except OSError:  # deleted, or too many open files
            self._levels = {}
            return
        # closed when the last reading thread releases this object
        weakref.finalize(self, file.close)
        n_kept = CACHE_BYTES // max(index.decoded_bytes for index in self._levels.values())
        self._tile = lru_cache(n_kept)(partial(_decode_tile, file.fileno(), self._levels))

    def _read(self, xy_px: tuple[int, int], level: int, size: tuple[int, int]) -> ndarray | None:
        index = self._levels[level]
        meeting = overlap(xy_px, size, index.size_px)
        if meeting is None:
            return white_canvas(size)
        (rows, columns), inside = meeting
        canvas = np.empty((size[1], size[0], 3), np.uint8)
        target = canvas[inside]
        if target.shape != canvas.shape:  # otherwise, tiles cover the whole canvas
            canvas.fill(WHITE)
        try:
            for row, column, of_tile, of_target in walk_tiles(rows, columns, index.tile_px):
                target[of_target] = self._tile(level, row, column)[of_tile]
        except (ValueError, RuntimeError, OSError):  # not in the file, or damaged
            return None
        return canvas


def _decode_tile(
    file: int, levels: Mapping[int, TileIndex], level: int, row: int, column: int
) -> ndarray:
    """(h, w, 3) uint8 RGB of a whole tile."""
    index = levels[level]
    n_bytes = int(index.n_bytes[row, column])
    # A damaged index may state any size, and must not decide how much memory is allocated.
    if not 0 < n_bytes < 2 * index.decoded_bytes:
        raise ValueError(f"a tile of {n_bytes} bytes")
    stream = read_at(file, n_bytes, int(index.offsets[row, column]))
    if len(stream) < n_bytes:
        raise ValueError("a tile extends past the end of the file")
    pixels = _decode_jpeg(stream, index)
    if pixels.shape != (*index.tile_px[::-1], 3) or pixels.dtype != np.uint8:
        raise ValueError(f"a tile of {pixels.shape}")
    return pixels


def _index_levels(
    path: Path, level_sizes_px: Mapping[int, tuple[int, int]]
) -> dict[int, TileIndex]:
    """The index of each level whose size matches exactly one tiled directory, if its tiles are
    JPEG that can be decoded here.
    """
    try:
        import tifffile

        with complaints_of_tifffile(), tifffile.TiffFile(path) as tiff:
            tiled = [page for page in islice(tiff.pages, MAX_DIRECTORIES) if page.is_tiled]
            pages = [
                page for page in tiled if 0 < page.tilewidth * page.tilelength * 3 <= CACHE_BYTES
            ]
            indices = {}
            for level, size in level_sizes_px.items():
                own = [page for page in pages if (page.imagewidth, page.imagelength) == tuple(size)]
                if len(own) == 1 and (index := _index_page(own[0])):
                    indices[level] = index
            return indices
    except Exception:  # tifffile raises anything on damaged files; OpenSlide reads them
        return {}


def _index_page(page: TiffPage) -> TileIndex | None:
    grid = -(-page.imagelength // page.tilelength), -(-page.imagewidth // page.tilewidth)
    header = _jpeg_header(page)
    return header and TileIndex(
        size_px=(page.imagewidth, page.imagelength),
        tile_px=(page.tilewidth, page.tilelength),
        offsets=np.array(page.dataoffsets, np.int64).reshape(grid),
        n_bytes=np.array(page.databytecounts, np.int64).reshape(grid),
        header=header,
    )


START, END = b"\xff\xd8", b"\xff\xd9"
# Adobe's segment states whether colours were converted. Without it, decoders guess: they do not see
# TIFF's tag.
ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
CONVERTED = {"RGB": b"\x00", "YCBCR": b"\x01"}


def _jpeg_header(page: TiffPage) -> bytes | None:
    """The beginning of the JPEG stream of every tile: start marker, Adobe's segment and shared
    tables; None if OpenSlide must decode the tiles of ``page``.
    """
    samples = page.bitspersample, page.samplesperpixel, page.imagedepth, page.planarconfig
    colours = CONVERTED.get(name_of(page.photometric))
    if samples != (8, 3, 1, CONTIGUOUS) or name_of(page.compression) != "JPEG" or not colours:
        return None
    # Shared tables are a JPEG stream of their own; without its markers, they can precede a tile's
    # tables.
    tables = (page.jpegtables or b"").removeprefix(START).removesuffix(END)
    return START + ADOBE + colours + tables


def _decode_jpeg(stream: bytes, index: TileIndex) -> ndarray:
    """(h, w, 3) uint8 RGB of a whole tile, in the size that its stream states.

    Warnings of libjpeg-turbo are errors, as in OpenSlide.
    """
    if not stream.startswith(START):
        raise ValueError("not a JPEG stream")
    # The buffer has the size of a tile, so a stream that claims to be larger is rejected before it
    # is decoded.
    buffer = np.empty(index.decoded_bytes, np.uint8)
    return simplejpeg.decode_jpeg(index.header + stream[2:], "RGB", buffer=buffer, strict=True)
