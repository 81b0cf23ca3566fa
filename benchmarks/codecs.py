"""Lossless codecs on real tissue: bytes and processor seconds per mm2 of a store's chunks, in one
thread.

    python benchmarks/codecs.py PICTURE... [--mpp 0.5]

Chunks are (3, 512, 512) uint8, cut from the pictures laid side by side.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from numcodecs import Blosc, Zstd, blosc
from PIL import Image

CODECS = {
    "zstd -1": Zstd(-1),
    "zstd 1": Zstd(1),
    "zstd 3": Zstd(3),
    "zstd 6": Zstd(6),
    "blosc lz4 5 bitshuffle": Blosc("lz4", 5, Blosc.BITSHUFFLE),
    "blosc zstd 1 bitshuffle": Blosc("zstd", 1, Blosc.BITSHUFFLE),
    "blosc zstd 3 bitshuffle": Blosc("zstd", 3, Blosc.BITSHUFFLE),
    "blosc zstd 5 bitshuffle": Blosc("zstd", 5, Blosc.BITSHUFFLE),
    "blosc zstd 1 no shuffle": Blosc("zstd", 1, Blosc.NOSHUFFLE),
    "blosc zstd 3 no shuffle": Blosc("zstd", 3, Blosc.NOSHUFFLE),
}


def read_chunks(pictures: list[Path], chunk_px: int = 512) -> list[np.ndarray]:
    """Whole chunks (3, chunk_px, chunk_px) cut from the pictures, laid side by side."""
    side = 480
    tiles = [np.asarray(Image.open(path).convert("RGB")) for path in pictures]
    tiles = [tile[:side, :side] for tile in tiles if min(tile.shape[:2]) >= side]
    n = int(len(tiles) ** 0.5)
    image = np.vstack([np.hstack(tiles[row * n : (row + 1) * n]) for row in range(n)])
    starts = range(0, n * side - chunk_px + 1, chunk_px)
    return [
        np.ascontiguousarray(image[y : y + chunk_px, x : x + chunk_px].transpose(2, 0, 1))
        for y in starts
        for x in starts
    ]


def measure(codec, chunks: list[np.ndarray], mm2: float) -> tuple[float, float, float]:
    """MB, and processor seconds for encoding and for decoding, each per mm2."""
    started = time.process_time()
    encoded = [codec.encode(chunk) for chunk in chunks]
    middle = time.process_time()
    for one in encoded:
        codec.decode(one)
    ended = time.process_time()
    return sum(map(len, encoded)) / 1e6 / mm2, (middle - started) / mm2, (ended - middle) / mm2


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("--mpp", type=float, default=0.5)
    args = parser.parse_args()
    blosc.set_nthreads(1)
    blosc.use_threads = False
    chunks = read_chunks(args.pictures)
    mm2 = len(chunks) * (512 * args.mpp / 1000) ** 2
    print(
        f"{len(chunks)} chunks, {mm2:.2f} mm2, raw {len(chunks) * chunks[0].nbytes / 1e6 / mm2:.1f}"
        " MB/mm2\n"
    )
    print("| codec | MB/mm2 | write s/mm2 | read s/mm2 |\n|---|---|---|---|")
    for name, codec in CODECS.items():
        size, write, read = measure(codec, chunks, mm2)
        print(f"| {name} | {size:.2f} | {write:.4f} | {read:.4f} |")


if __name__ == "__main__":
    main()
