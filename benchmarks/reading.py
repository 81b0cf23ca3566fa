"""What JPEG tiles cost with OpenSlide alone and decoded by themselves: bare reading, and `muse tile`.

    python benchmarks/reading.py SLIDE... [--mpp 0.25] [--rounds 3]

Counted is processor time, user and system, of all threads: both ways in turns in one process, the least of the rounds.
The whole of level 0 counts as tissue, and the pixels of both ways must be the same.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from muse_pipeline.slides.base import SlideReader
from muse_pipeline.slides.inspect import inspect_slide
from muse_pipeline.slides.openslide import OpenSlideReader
from muse_pipeline.tiles.resample import AreaReader
from muse_pipeline.tiles.store import CHUNK_PX
from muse_pipeline.tiles.write import write_store
from muse_pipeline.tissue.mask import TissueMask
from muse_pipeline.types import SlideInfo

WAYS = ("OpenSlide alone", "tiles by themselves")


def main() -> None:
    """Measure every slide."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", nargs="+", type=Path)
    parser.add_argument("--mpp", type=float, help="of a slide that does not state it")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print(f"| slide | | {WAYS[0]}, MP/s | {WAYS[1]}, MP/s | ratio |\n|---|---|---|---|---|")
    for path in args.slides:
        info = inspect_slide(path, path.stem, args.mpp)
        for name, work in (("reading", read_blocks), ("muse tile", write_tiles)):
            measure(path, info, name, work, args.rounds)


def measure(path: Path, info: SlideInfo, name: str, work: Callable, rounds: int) -> None:
    """One line of the table."""
    seconds, results = np.empty((rounds, 2)), set()
    for turn in range(rounds):
        for way in range(2):
            with OpenSlideReader(path) as slide:
                if way == 0:
                    slide._direct_tiles = None
                before = os.times()
                results.add(work(slide, info))
                after = os.times()
                seconds[turn, way] = after.user + after.system - before.user - before.system
    assert len(results) == 1, f"{path}: the pixels differ"
    rates = info.size_px[0] * info.size_px[1] / 1e6 / seconds.min(0)
    print(f"| {path.name} | {name} | {rates[0]:.0f} | {rates[1]:.0f} | {rates[1] / rates[0]:.2f} |", flush=True)


def read_blocks(slide: SlideReader, info: SlideInfo) -> str:
    """Read level 0 in the blocks of `muse tile` at 0.5 um; a checksum of the pixels, which costs little beside."""
    reader = AreaReader(slide, info, 0.5)
    checksum = hashlib.blake2b()
    step = 2 * CHUNK_PX, CHUNK_PX
    for y in range(0, reader.size_px[1], step[1]):
        for x in range(0, reader.size_px[0], step[0]):
            corner, size = (round(x * 0.5 / info.mpp[0]), round(y * 0.5 / info.mpp[1])), step
            pixels = slide.read_region(
                corner, 0, tuple(round(n * 0.5 / m) for n, m in zip(size, info.mpp, strict=True))
            )
            checksum.update(pixels[::16].tobytes())
    return checksum.hexdigest()


def write_tiles(slide: SlideReader, info: SlideInfo) -> str:
    """Write the store; a checksum of its files."""
    shape = tuple(-(-side // 32) for side in info.size_px[::-1])
    tissue = TissueMask(np.ones(shape, bool), np.array(info.mpp) * 32, None, info.area_mm2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image-500nm.zarr"
        write_store(slide, info, tissue, path, threads=2)
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return hashlib.blake2b(b"".join(file.read_bytes() for file in files)).hexdigest()


if __name__ == "__main__":
    main()
