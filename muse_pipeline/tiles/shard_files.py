"""Read chunks straight from a store's shard files, in the caller's thread.

zarr reads the same files, but decodes in a pool of its own, sized by the machine and not by the job, and takes twice as
long for pieces of a few chunks. The layout is that of zarr's ``sharding_indexed`` codec: chunks one after the other,
then a table of (offset, length) as little-endian uint64, row by row, and its CRC-32C.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import numpy as np
from numcodecs import Zstd
from numcodecs.checksum32 import CRC32C

_ABSENT = np.uint64(2**64 - 1)
_CHECKSUM_BYTES = 4
N_OPEN = 64  # files, of all stores of a process together: pretraining reads a cohort's stores at random


class ShardFiles:
    """The chunks of one array ``(3, height, width)``; safe to read from several threads.

    Attributes:
        chunk_px: side of a chunk.
        chunks_per_shard: chunks along a side of a shard.
    """

    def __init__(self, folder: Path, chunk_px: int, chunks_per_shard: int):
        self.folder, self.chunk_px, self.chunks_per_shard = folder, chunk_px, chunks_per_shard

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
        return np.frombuffer(Zstd().decode(content), np.uint8).reshape(3, self.chunk_px, self.chunk_px)

    def open_shard(self, row: int, column: int):
        """The open file and its table (rows, columns, 2), or None."""
        try:
            file = (self.folder / f"c/0/{row}/{column}").open("rb")
        except FileNotFoundError:
            return None
        n_bytes = self.chunks_per_shard**2 * 16 + _CHECKSUM_BYTES
        file.seek(-n_bytes, os.SEEK_END)
        table = np.frombuffer(CRC32C().decode(file.read(n_bytes)), "<u8")
        return file, table.reshape(self.chunks_per_shard, self.chunks_per_shard, 2)


@lru_cache(maxsize=N_OPEN)
def _open_shard(shards: ShardFiles, row: int, column: int):
    """Opened once while it is needed; what is let go of is closed by itself, and never while it is being read."""
    return shards.open_shard(row, column)
