"""Tiles of a TIFF, decoded straight from the file: the same pixels as from OpenSlide in a fraction
of the time.

OpenSlide composites every tile with transparency, which takes several times as long as decoding a
JPEG. Here, tifffile reads the index of the tiles once, and each tile then takes one read and one
call of its codec. At the first read of a level, some of its tiles are compared with OpenSlide's
pixels; a level that differs in a single bit is left to OpenSlide, as are tiles that are missing or
damaged and levels with a compression that is not supported here.
"""

from __future__ import annotations

import gc
import struct
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from muse_pipeline.core.environment import read_at
from muse_pipeline.core.errors import SlideError
from muse_pipeline.slides.base import WHITE, overlap, white_canvas
from muse_pipeline.slides.tiff_pictures import complaints_of_tifffile, name_of

if TYPE_CHECKING:
    from tifffile import TiffPage


CACHE_BYTES = (
    32 << 20
)  # size of the cache of decoded tiles, as in OpenSlide; enough for a row of chunks of `tile`
MAX_DIRECTORIES = 100  # a slide has a dozen; in a damaged file, their chain may have no end
CONTIGUOUS = 1  # PlanarConfiguration of interleaved channels

Read = Callable[[tuple[int, int], int, tuple[int, int]], np.ndarray]


@dataclass(frozen=True, eq=False)
class TileIndex:
    """Index of the tiles of a level of ``size_px`` (width, height), which all have ``tile_px``, and
    their decoder.

    Offsets and sizes in the file are (rows, columns) int64; a tile that is not in the file has 0
    bytes.
    """

    size_px: tuple[int, int]
    tile_px: tuple[int, int]
    offsets: np.ndarray
    n_bytes: np.ndarray
    codec: Jpeg | Jpeg2000

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
    ) -> np.ndarray | None:
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
            if (
                pixels := self._read(*region)
            ) is not None:  # otherwise, OpenSlide always reads this tile
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
        weakref.finalize(
            self, file.close
        )  # closed when the last reading thread releases this object
        n_kept = CACHE_BYTES // max(index.decoded_bytes for index in self._levels.values())
        self._tile = lru_cache(n_kept)(partial(_decode_tile, file.fileno(), self._levels))

    def _read(self, xy_px: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray | None:
        index = self._levels[level]
        meeting = overlap(xy_px, size, index.size_px)
        if meeting is None:
            return white_canvas(size)
        (rows, columns), inside = meeting
        canvas = np.empty((size[1], size[0], 3), np.uint8)
        target = canvas[inside]
        if target.shape != canvas.shape:  # otherwise, tiles cover the whole canvas
            canvas.fill(WHITE)
        extent = target.shape[1::-1]
        width, height = index.tile_px
        try:
            for row in range(rows.start // height, -(-rows.stop // height)):
                for column in range(columns.start // width, -(-columns.stop // width)):
                    corner = columns.start - column * width, rows.start - row * height
                    of_tile, of_target = overlap(corner, extent, index.tile_px)
                    target[of_target] = self._tile(level, row, column)[of_tile]
        except (ValueError, RuntimeError, OSError):  # not in the file, or damaged
            return None
        return canvas


def _decode_tile(
    file: int, levels: Mapping[int, TileIndex], level: int, row: int, column: int
) -> np.ndarray:
    """(h, w, 3) uint8 RGB of a whole tile."""
    index = levels[level]
    n_bytes = int(index.n_bytes[row, column])
    # A damaged index may state any size, and must not decide how much memory is allocated.
    if not 0 < n_bytes < 2 * index.decoded_bytes:
        raise ValueError(f"a tile of {n_bytes} bytes")
    stream = read_at(file, n_bytes, int(index.offsets[row, column]))
    if len(stream) < n_bytes:
        raise ValueError("a tile extends past the end of the file")
    pixels = index.codec.decode(stream, index.tile_px)
    if pixels.shape != (*index.tile_px[::-1], 3) or pixels.dtype != np.uint8:
        raise ValueError(f"a tile of {pixels.shape}")
    return pixels


def _index_levels(
    path: Path, level_sizes_px: Mapping[int, tuple[int, int]]
) -> dict[int, TileIndex]:
    """The index of each level whose size matches exactly one tiled directory, if there is a codec
    for its tiles.
    """
    try:
        import tifffile

        with complaints_of_tifffile(), tifffile.TiffFile(path) as tiff:
            tiled = [page for page in islice(tiff.pages, MAX_DIRECTORIES) if page.is_tiled]
            pages = [
                page for page in tiled if 0 < page.tilewidth * page.tilelength * 3 <= CACHE_BYTES
            ]
            candidates = {
                level: [
                    page for page in pages if (page.imagewidth, page.imagelength) == tuple(size)
                ]
                for level, size in level_sizes_px.items()
            }
            indices = {
                level: _index_page(pages[0])
                for level, pages in candidates.items()
                if len(pages) == 1
            }
            return {level: index for level, index in indices.items() if index}
    except Exception:  # tifffile raises anything on damaged files; OpenSlide reads them
        return {}


def _index_page(page: TiffPage) -> TileIndex | None:
    grid = -(-page.imagelength // page.tilelength), -(-page.imagewidth // page.tilewidth)
    codec = codec_of(page)
    return codec and TileIndex(
        size_px=(page.imagewidth, page.imagelength),
        tile_px=(page.tilewidth, page.tilelength),
        offsets=np.array(page.dataoffsets, np.int64).reshape(grid),
        n_bytes=np.array(page.databytecounts, np.int64).reshape(grid),
        codec=codec,
    )


def codec_of(page: TiffPage) -> Jpeg | Jpeg2000 | None:
    """Decoder of the tiles of ``page``; None if OpenSlide must decode them or the package is not
    installed.
    """
    if (page.bitspersample, page.samplesperpixel, page.imagedepth) != (
        8,
        3,
        1,
    ) or page.planarconfig != CONTIGUOUS:
        return None
    try:
        return (Jpeg if name_of(page.compression) == "JPEG" else Jpeg2000).of_page(page)
    except ImportError:
        return None


@dataclass(frozen=True)
class Jpeg:
    """Decodes baseline JPEG with libjpeg-turbo; warnings are errors, as in OpenSlide.

    The start marker of every tile is replaced by a header: start marker, Adobe's segment and shared
    tables.
    """

    header: bytes

    START: ClassVar[bytes] = b"\xff\xd8"
    END: ClassVar[bytes] = b"\xff\xd9"
    # Adobe's segment states whether colours were converted. Without it, decoders guess: they do not
    # see TIFF's tag.
    ADOBE: ClassVar[bytes] = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
    CONVERTED: ClassVar[dict[str, bytes]] = {"RGB": b"\x00", "YCBCR": b"\x01"}

    @classmethod
    def of_page(cls, page: TiffPage) -> Jpeg | None:
        """Codec of a page of JPEG tiles; None unless their colours are RGB or YCbCr."""
        import simplejpeg  # noqa: F401 - without it OpenSlide decodes

        colours = cls.CONVERTED.get(name_of(page.photometric))
        # Shared tables are a JPEG stream of their own; without its markers, they can precede a
        # tile's tables.
        tables = (page.jpegtables or b"").removeprefix(cls.START).removesuffix(cls.END)
        return None if colours is None else cls(cls.START + cls.ADOBE + colours + tables)

    def decode(self, stream: bytes, tile_px: tuple[int, int]) -> np.ndarray:
        """(h, w, 3) uint8 RGB of a whole tile, in the size that its stream states."""
        import simplejpeg

        if not stream.startswith(self.START):
            raise ValueError("not a JPEG stream")
        # The buffer has the size of a tile, so a stream that claims to be larger is rejected before
        # it is decoded.
        buffer = np.empty(tile_px[0] * tile_px[1] * 3, np.uint8)
        return simplejpeg.decode_jpeg(self.header + stream[2:], "RGB", buffer=buffer, strict=True)


@dataclass(frozen=True)
class Jpeg2000:
    """Decodes Aperio's JPEG 2000, a bare codestream in YCbCr or RGB, with OpenJPEG from
    imagecodecs.

    Components of unequal size (4:2:2) are left to OpenSlide, because imagecodecs rounds their
    conversion differently.
    """

    is_ycbcr: bool

    YCBCR_OF_COMPRESSION: ClassVar[dict[int, bool]] = {33003: True, 33005: False}
    # Markers SOC and SIZ, length, capabilities; size and origin of image and tiles; number of
    # components; 3 bytes each.
    SIZE: ClassVar[struct.Struct] = struct.Struct(">4sHHIIIIIIIIH9s")
    BYTES_EACH: ClassVar[bytes] = (
        b"\x07\x01\x01" * 3
    )  # per component: 8 bits, unsigned, one sample per pixel

    @classmethod
    def of_page(cls, page: TiffPage) -> Jpeg2000 | None:
        """Codec of a page of JPEG 2000 tiles with Aperio's compression codes; None for other
        compressions.
        """
        is_ycbcr = cls.YCBCR_OF_COMPRESSION.get(int(page.compression))
        if is_ycbcr is None:
            return None
        import imagecodecs

        return cls(is_ycbcr) if imagecodecs.JPEG2K.available else None

    def decode(self, stream: bytes, tile_px: tuple[int, int]) -> np.ndarray:
        """Decode a tile, as described in ``Jpeg``."""
        import imagecodecs

        self._require_tile(stream, tile_px)
        pixels = imagecodecs.jpeg2k_decode(stream, numthreads=1)
        return ycbcr_to_rgb(pixels) if self.is_ycbcr else pixels

    def _require_tile(self, stream: bytes, tile_px: tuple[int, int]) -> None:
        """Reject tiles that claim a different size, before any allocation, and tiles that
        imagecodecs would convert.
        """
        if len(stream) < self.SIZE.size:
            raise ValueError("not a JPEG 2000 codestream")
        marks, _, _, width, height, x, y, _, _, _, _, n_components, components = (
            self.SIZE.unpack_from(stream)
        )
        if marks != b"\xff\x4f\xff\x51" or (width, height, x, y) != (*tile_px, 0, 0):
            raise ValueError("not a JPEG 2000 codestream of this size")
        if n_components != 3 or components != self.BYTES_EACH:
            raise ValueError("components of unequal size, or not of 8 bits")


def ycbcr_to_rgb(pixels: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 RGB from YCbCr as in JFIF 1.02; the contribution of chroma is rounded once,
    as in OpenSlide.
    """
    luma, blue, red = (pixels[..., i] for i in range(3))
    rgb = np.empty(pixels.shape, np.int16)
    np.add(luma, _RED[red], out=rgb[..., 0])
    np.add(luma, _GREEN[blue, red], out=rgb[..., 1])
    np.add(luma, _BLUE[blue], out=rgb[..., 2])
    return rgb.clip(0, 255).astype(np.uint8)


# Two values lie halfway between integers: OpenSlide rounds the one for blue away from zero, and the
# one for green up.
_CHROMA = np.arange(256) - 128
_RED, _BLUE = (
    (np.sign(_CHROMA) * np.floor(abs(k * _CHROMA) + 0.5)).astype(np.int16) for k in (1.402, 1.772)
)
_GREEN = np.floor(-0.34414 * _CHROMA[:, None] - 0.71414 * _CHROMA + 0.5).astype(
    np.int16
)  # (cb, cr)
