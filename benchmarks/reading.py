"""Speed of reading slides with OpenSlide only, and with direct decoding of tiles: plain reading,
and `muse tile`.

    python benchmarks/reading.py SLIDE... [--mpp 0.25] [--rounds 3] [--jpeg2000]

With `--jpeg2000`, level 0 of every slide is also measured as Aperio's JPEG 2000, in RGB (33005) and
YCbCr (33003): lossy, at 38 dB, in tiles of 240 px.

Rates are per second of processor time (user and system, all threads). Both ways are measured in
turn in one process, and the fastest round of each counts. All of level 0 counts as tissue, and both
ways must give the same pixels.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import tifffile

from muse_pipeline.core.types import SlideInfo
from muse_pipeline.slides.base import SlideReader
from muse_pipeline.slides.inspect import inspect_slide
from muse_pipeline.slides.openslide import OpenSlideReader
from muse_pipeline.store.resample import AreaReader
from muse_pipeline.store.store import CHUNK_PX
from muse_pipeline.store.write import write_store
from muse_pipeline.tissue.mask import TissueMask

WAYS = ("OpenSlide", "direct tiles")


def main() -> None:
    """Measure every slide."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("slides", nargs="+", type=Path)
    parser.add_argument("--mpp", type=float, help="um per pixel of slides that do not state it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--jpeg2000", action="store_true", help="also measure each slide as JPEG 2000"
    )
    args = parser.parse_args()
    print(f"| slide | | {WAYS[0]}, MP/s | {WAYS[1]}, MP/s | ratio |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for slide in args.slides:
            copies = [
                write_jpeg2000(slide, Path(folder), args.mpp, to)
                for to in (33005, 33003)
                if args.jpeg2000
            ]
            for path in (slide, *copies):
                info = inspect_slide(path, path.stem, args.mpp)
                for name, work in (("reading", read_blocks), ("muse tile", write_tiles)):
                    measure(path, info, name, work, args.rounds)


def write_jpeg2000(path: Path, folder: Path, mpp: float | None, compression: int) -> Path:
    """Write level 0 of a slide as Aperio's JPEG 2000, codestreams with its own compression tag, and
    return the path.
    """
    info, side = inspect_slide(path, path.stem, mpp), 240
    copy = folder / f"{path.stem}-{compression}.svs"

    def encode(slide: SlideReader, x: int, y: int) -> bytes:
        pixels = slide.read_region((x, y), 0, (side, side))
        if compression == 33003:
            pixels = np.ascontiguousarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]])
        return imagecodecs.jpeg2k_encode(
            pixels, 38, codecformat="j2k", reversible=False, mct=compression == 33005
        )

    width, height = info.size_px
    with OpenSlideReader(path) as slide:
        tifffile.imwrite(
            copy,
            (encode(slide, x, y) for y in range(0, height, side) for x in range(0, width, side)),
            shape=(height, width, 3),
            dtype=np.uint8,
            tile=(side, side),
            photometric="rgb",
            compression=compression,
            description=(
                f"Aperio Image Library v0\r\n{width}x{height} ({side}x{side}) J2K|MPP ="
                f" {info.mpp[0]:g}"
            ),
            metadata=None,
        )
    return copy


def measure(path: Path, info: SlideInfo, name: str, work: Callable, rounds: int) -> None:
    """Measure ``work`` in both ways, and print a row of the table."""
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
    print(
        f"| {path.name} | {name} | {rates[0]:.0f} | {rates[1]:.0f} | {rates[1] / rates[0]:.2f} |",
        flush=True,
    )


def read_blocks(slide: SlideReader, info: SlideInfo) -> str:
    """Read level 0 in the blocks of `muse tile` at 0.5 um, and return a checksum of every 16th row,
    which is cheap.
    """
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
    """Write the store, and return a checksum of its files."""
    shape = tuple(-(-side // 32) for side in info.size_px[::-1])
    tissue = TissueMask(np.ones(shape, bool), np.array(info.mpp) * 32, None, info.area_mm2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image-500nm.zarr"
        write_store(slide, info, tissue, path, threads=2)
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return hashlib.blake2b(b"".join(file.read_bytes() for file in files)).hexdigest()


if __name__ == "__main__":
    main()
