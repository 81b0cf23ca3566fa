"""Write and read the chunks of a store's shard files without zarr, in the caller's thread.

zarr does the same, but in a pool of its own, sized by the machine and not by the job. Parts of a few chunks it reads
in twice the time; a shard that it writes it holds several times over, and compares every pixel with white twice. The
layout is that of its ``sharding_indexed`` codec: chunks one after the other, then a table of (offset, length) as
little-endian uint64, row by row, and its CRC-32C. Files are zarr's own, byte for byte.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Self

import numpy as np
from numcodecs.checksum32 import CRC32C

from muse_pipeline.store.codec import LOSSLESS, decode

_ABSENT = np.uint64(2**64 - 1)
_CHECKSUM_BYTES = 4
N_OPEN = 64  # files, of all stores of a process together: pretraining reads a cohort's stores at random
N_RECENT = 32  # decoded chunks, of 0.8 MB each, likewise: the views of a set show the same few


def z_order(n: int) -> list[tuple[int, int]]:
    """(row, column) of ``n`` x ``n`` chunks in the order of their shard's file; ``n`` is a power of 2.

    The top left quarter comes first, then the one below it, then the two to the right, each in the same order. It is
    zarr's order, and what lies together is read together.
    """
    if n == 1:
        return [(0, 0)]
    half = n // 2
    corners = (0, 0), (half, 0), (0, half), (half, half)
    return [(top + row, left + column) for top, left in corners for row, column in z_order(half)]


class NewShardFile:
    """A shard's file while it is written; a shard without chunks is no file."""

    def __init__(self, path: Path, chunks_per_shard: int):
        """Nothing is made before the first chunk.

        Args:
            path: in a folder that need not be there.
            chunks_per_shard: chunks along a side.
        """
        self._path, self._file = path, None
        self._table = np.full((chunks_per_shard, chunks_per_shard, 2), _ABSENT, "<u8")

    def add(self, row: int, column: int, content: bytes) -> None:
        """Append a compressed chunk; ``row`` and ``column`` count within the shard."""
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


class ShardFiles:
    """The chunks of one array ``(3, height, width)``; safe to read from several threads.

    Attributes:
        chunk_px: side of a chunk.
        chunks_per_shard: chunks along a side of a shard.
        codec: of the chunks, one of ``codec.CODECS``.
    """

    def __init__(self, folder: Path, chunk_px: int, chunks_per_shard: int, codec: str = LOSSLESS):
        self.folder, self.chunk_px, self.chunks_per_shard, self.codec = folder, chunk_px, chunks_per_shard, codec

    def read_chunk(self, row: int, column: int) -> np.ndarray | None:
        """Decode a chunk: (3, chunk_px, chunk_px) uint8, or None where there is none.

        Raises:
            OSError, RuntimeError, ValueError: the file is damaged.
        """
        n = self.chunks_per_shard
        shard = _open_shard(self, row // n, column // n)
        if shard is None:
            return None
        file, table = shard
        offset, length = table[row % n, column % n]
        if offset == _ABSENT:
            return None
        content = os.pread(file.fileno(), int(length), int(offset))
        return decode(content, self.chunk_px, self.codec)

    def read_recent_chunk(self, row: int, column: int) -> np.ndarray | None:
        """Decode a chunk unless it is among the last ``N_RECENT`` of this process; see ``read_chunk``."""
        return _recent_chunk(self, row, column)

    def open_shard(self, row: int, column: int):
        """The open file and its table (rows, columns, 2), or None."""
        try:
            file = shard_path(self.folder, row, column).open("rb")
        except FileNotFoundError:
            return None
        n_bytes = self.chunks_per_shard**2 * 16 + _CHECKSUM_BYTES
        file.seek(-n_bytes, os.SEEK_END)
        table = np.frombuffer(CRC32C().decode(file.read(n_bytes)), "<u8")
        return file, table.reshape(self.chunks_per_shard, self.chunks_per_shard, 2)


@lru_cache(maxsize=N_RECENT)
def _recent_chunk(shards: ShardFiles, row: int, column: int) -> np.ndarray | None:
    return shards.read_chunk(row, column)


@lru_cache(maxsize=N_OPEN)
def _open_shard(shards: ShardFiles, row: int, column: int):
    """Opened once while it is needed; what is let go of is closed by itself, and never while it is being read."""
    return shards.open_shard(row, column)


def close_shards() -> None:
    """Close the files that are kept open, of all stores; a deleted one takes space on disk until then."""
    _open_shard.cache_clear()
