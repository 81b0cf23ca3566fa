"""Write and read zarr 3 groups, arrays of uint8 and sharded chunks without zarr, in the caller's
thread.

Loading zarr takes longer than reading a small slide, and its thread pool has the size of the
machine, not of the job. Zarr takes twice as long to read parts of a few chunks, keeps several
copies of a shard in memory while writing it, and compares every pixel with white twice. The layout
is that of the codec ``sharding_indexed``: consecutive chunks, then a table of (offset, length) as
little-endian uint64, row by row, and the table's CRC-32C. Files are identical to zarr's, byte for
byte, except for JPEG chunks, for which zarr has no codec.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
import simplejpeg
from numcodecs import Zstd
from numcodecs.checksum32 import CRC32C
from numpy import ndarray

from muse_pipeline.core.environment import read_at
from muse_pipeline.core.files import read_json
from muse_pipeline.slides.base import walk_tiles

METADATA = "zarr.json"
SIDE_PX = 1024  # side of a plane's chunks
BYTES = {"name": "bytes"}
LOSSLESS, JPEG = "zstd", "jpeg"
CODECS = (LOSSLESS, JPEG)
ZSTD, OF_PLANES = {"level": -1, "checksum": True}, {"level": 0, "checksum": False}
# imagecodecs registers this name
JPEG_NAME, JPEG_QUALITY, JPEG_SUBSAMPLING = "imagecodecs_jpeg", 90, "420"


def zstd(level: int, checksum: bool) -> dict[str, Any]:
    """Metadata of the codec Zstandard."""
    return {"name": "zstd", "configuration": {"level": level, "checksum": checksum}}


def in_shards(chunk_shape: Sequence[int], codecs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Metadata of the codec for files with several chunks of ``chunk_shape``, each compressed by
    ``codecs``.
    """
    little = {**BYTES, "configuration": {"endian": "little"}}
    sharded = {
        "chunk_shape": list(chunk_shape),
        "codecs": list(codecs),
        "index_codecs": [little, {"name": "crc32c"}],
        "index_location": "end",
    }
    return [{"name": "sharding_indexed", "configuration": sharded}]


def write_group(folder: Path, attributes: dict[str, Any]) -> None:
    """Write the metadata of a group."""
    _write_metadata(folder, {"attributes": attributes, "zarr_format": 3, "node_type": "group"})


def write_array(
    folder: Path,
    shape: Sequence[int],
    file_shape: Sequence[int],
    codecs: Sequence[dict[str, Any]],
    axes: Sequence[str],
    fill_value: int = 0,
) -> None:
    """Write the metadata of an array of uint8, whose files contain parts of ``file_shape`` with
    these codecs.

    Pixels without a file have the value ``fill_value``.
    """
    # Order and indentation are zarr's, so that files are identical to its files, byte for byte.
    metadata = {
        "shape": list(shape),
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(file_shape)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill_value,
        "codecs": list(codecs),
        "attributes": {},
        "dimension_names": list(axes),
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }
    _write_metadata(folder, metadata)


def _write_metadata(folder: Path, metadata: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / METADATA).write_bytes(json.dumps(metadata, indent=2).encode())


def write_planes(folder: Path, pixels: ndarray, side_px: int = SIDE_PX) -> None:
    """Write an array (y, x) or (c, y, x) uint8 in chunks of one plane each; chunks of zeros get no
    file.
    """
    chunk_shape = (*[1] * (pixels.ndim - 2), side_px, side_px)
    write_array(
        folder,
        pixels.shape,
        chunk_shape,
        [BYTES, zstd(**OF_PLANES)],
        ("c", "y", "x")[-pixels.ndim :],
    )
    height, width = pixels.shape[-2:]
    for index, top, left in product(
        np.ndindex(pixels.shape[:-2]), range(0, height, side_px), range(0, width, side_px)
    ):
        part = pixels[index][top : top + side_px, left : left + side_px]
        if part.any():
            chunk = np.zeros((side_px, side_px), np.uint8)
            chunk[: part.shape[0], : part.shape[1]] = part
            file = folder.joinpath("c", *map(str, (*index, top // side_px, left // side_px)))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(Zstd(**OF_PLANES).encode(chunk))


class Plane:
    """A plane (h, w) of an array from ``write_planes``, read in parts; ``index`` is that in an
    array (c, y, x).
    """

    def __init__(self, folder: Path, *index: int):
        array = read_json(folder / METADATA)
        shape = array["shape"]
        chunk = array["chunk_grid"]["configuration"]["chunk_shape"]
        kind = array["data_type"]
        names = [codec["name"] for codec in array["codecs"]]
        self.shape, self._side = tuple(shape[-2:]), chunk[-1]
        self._chunks = folder.joinpath("c", *map(str, index))
        is_plane = (
            chunk == [*[1] * len(index), self._side, self._side] and 0 < self._side <= SIDE_PX
        )
        if (
            kind != "uint8"
            or len(shape) != len(chunk)
            or not is_plane
            or names != ["bytes", "zstd"]
        ):
            raise ValueError(
                f"{folder.name} is {kind} of shape {tuple(shape)} in chunks of {chunk}, codecs"
                f" {names}"
            )

    def read(
        self, top: int = 0, left: int = 0, bottom: int | None = None, right: int | None = None
    ) -> ndarray:
        """Read a box of the plane, (h, w) uint8, by default the whole plane."""
        bottom = self.shape[0] if bottom is None else bottom
        right = self.shape[1] if right is None else right
        pixels = np.zeros((bottom - top, right - left), np.uint8)
        chunk_px = self._side, self._side
        walk = walk_tiles(slice(top, bottom), slice(left, right), chunk_px)
        for row, column, of_chunk, of_box in walk:
            file = self._chunks / f"{row}/{column}"
            if file.is_file():
                chunk = np.frombuffer(Zstd().decode(file.read_bytes()), np.uint8)
                pixels[of_box] = chunk.reshape(chunk_px)[of_chunk]
        return pixels


def encode(planes: ndarray, codec: str) -> bytes:
    """Compress a chunk (3, side, side) uint8; ``codec`` is one of ``CODECS``."""
    if codec == LOSSLESS:
        return Zstd(**ZSTD).encode(planes)
    return simplejpeg.encode_jpeg(
        cv2.merge(list(planes)), JPEG_QUALITY, "RGB", JPEG_SUBSAMPLING, fastdct=False
    )


def decode(content: bytes, side_px: int, codec: str) -> ndarray:
    """Decompress a chunk (3, side, side) uint8."""
    if codec == LOSSLESS:
        return np.frombuffer(Zstd().decode(content), np.uint8).reshape(3, side_px, side_px)
    # For a picture of a different size, ``reshape`` raises the ValueError of a damaged chunk.
    return np.stack(cv2.split(simplejpeg.decode_jpeg(content, "RGB"))).reshape(3, side_px, side_px)


def chunk_codecs(codec: str) -> list[dict[str, Any]]:
    """Metadata of the codecs of a chunk of an array ``(c, y, x)``."""
    if codec == LOSSLESS:
        return [BYTES, zstd(**ZSTD)]
    order = {"name": "transpose", "configuration": {"order": [1, 2, 0]}}
    return [order, {"name": JPEG_NAME, "configuration": {"level": JPEG_QUALITY}}]


_ABSENT = np.uint64(2**64 - 1)
_CHECKSUM_BYTES = 4
# number of files that a process keeps open, because pretraining reads a cohort's stores at random
N_OPEN = 64
# number of decoded chunks (0.8 MB each) that a process caches, because the views of a set overlap
N_RECENT = 32


def z_order(n: int) -> list[tuple[int, int]]:
    """(row, column) of ``n`` x ``n`` chunks in the order of the shard's file; ``n`` is a power of
    2.

    The top left quarter comes first, then the one below it, then the top right and the bottom right
    one; chunks within a quarter follow the same order. This is zarr's order; it keeps neighbouring
    chunks close together in the file.
    """
    if n == 1:
        return [(0, 0)]
    half = n // 2
    corners = (0, 0), (half, 0), (0, half), (half, half)
    return [(top + row, left + column) for top, left in corners for row, column in z_order(half)]


class NewShardFile:
    """Writes a shard's file with ``chunks_per_shard`` chunks along a side; a shard without chunks
    gets no file.

    The file is created with the first chunk, and so is its folder.
    """

    def __init__(self, path: Path, chunks_per_shard: int):
        self._path, self._file = path, None
        self._table = np.full((chunks_per_shard, chunks_per_shard, 2), _ABSENT, "<u8")

    def add(self, row: int, column: int, content: bytes) -> None:
        """Append the compressed chunk at ``row`` and ``column`` of the shard."""
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("wb")
        self._table[row, column] = self._file.tell(), len(content)
        self._file.write(content)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._file is None:
            return
        with self._file:
            if kind is None:
                self._file.write(CRC32C().encode(self._table))


def shard_path(folder: Path, row: int, column: int) -> Path:
    """The file of a shard of the array ``(3, height, width)`` in ``folder``."""
    return folder / f"c/0/{row}/{column}"


@dataclass(eq=False)
class ShardFiles:
    """The chunks of one array ``(3, height, width)``; safe to read from several threads.

    A shard has ``chunks_per_shard`` chunks of ``chunk_px`` pixels along a side, compressed by one
    of ``CODECS``.
    """

    folder: Path
    chunk_px: int
    chunks_per_shard: int
    codec: str = LOSSLESS

    def read_chunk(self, row: int, column: int) -> ndarray | None:
        """Read a chunk: (3, chunk_px, chunk_px) uint8, or None if it is absent."""
        n = self.chunks_per_shard
        shard = _open_shard(self, row // n, column // n)
        if shard is None:
            return None
        file, table = shard
        offset, length = table[row % n, column % n]
        if offset == _ABSENT:
            return None
        content = read_at(file.fileno(), int(length), int(offset))
        return decode(content, self.chunk_px, self.codec)


@lru_cache(maxsize=N_RECENT)
def read_recent_chunk(shards: ShardFiles, row: int, column: int) -> ndarray | None:
    """``ShardFiles.read_chunk``, with a cache of the last ``N_RECENT`` chunks of this process."""
    return shards.read_chunk(row, column)


@lru_cache(maxsize=N_OPEN)
def _open_shard(shards: ShardFiles, row: int, column: int):
    """Open a shard's file and read its table (rows, columns, 2); None if there is no file.

    A file that leaves the cache is closed once no thread reads it.
    """
    try:
        file = shard_path(shards.folder, row, column).open("rb")
    except FileNotFoundError:
        return None
    n_bytes = shards.chunks_per_shard**2 * 16 + _CHECKSUM_BYTES
    file.seek(-n_bytes, os.SEEK_END)
    table = np.frombuffer(CRC32C().decode(file.read(n_bytes)), "<u8")
    return file, table.reshape(shards.chunks_per_shard, shards.chunks_per_shard, 2)


def close_shards() -> None:
    """Close the shard files of all stores that are kept open; a deleted file uses disk space until
    it is closed.
    """
    _open_shard.cache_clear()
