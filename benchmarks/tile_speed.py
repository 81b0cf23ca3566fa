"""What `muse tile` costs beyond reading: a 40x JPEG slide made of real pictures, against bare reading of its chunks.

    python benchmarks/tile_speed.py PICTURE... [--threads 2] [--side 8192] [--mpp 0.25]

The pictures (about 0.25 um/px) are laid side by side; levels are 1, 4 and 16 times smaller, in JPEG tiles of 240 px.
Counted is processor time over threads, the wall time of an idle machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image

from muse_pipeline.slides.base import open_slide
from muse_pipeline.slides.inspect import inspect_slide
from muse_pipeline.store.chunks import Chunk, chunks_by_shard, chunks_with_tissue
from muse_pipeline.store.resample import AreaReader
from muse_pipeline.store.write import write_store
from muse_pipeline.tissue.mask import TissueMask


def lay_out(pictures: list[Path], side_px: int) -> np.ndarray:
    """(side, side, 3) uint8: the pictures in rows, again and again."""
    tiles = [np.asarray(Image.open(path).convert("RGB"))[:256, :256] for path in pictures]
    n = -(-side_px // 256)
    rows = [np.hstack([tiles[(row * n + column) % len(tiles)] for column in range(n)]) for row in range(n)]
    return np.vstack(rows)[:side_px, :side_px]


def write_slide(path: Path, image: np.ndarray) -> None:
    """Write a pyramid of JPEG tiles."""
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for level, factor in enumerate((1, 4, 16)):
            size = tuple(side // factor for side in image.shape[1::-1])
            tiff.write(
                cv2.resize(image, size, interpolation=cv2.INTER_AREA),
                tile=(240, 240),
                photometric="ycbcr",
                subsampling=(2, 2),
                compression="jpeg",
                compressionargs={"level": 80},
                subfiletype=int(level > 0),
            )


def main() -> None:
    """Measure in pairs, reading first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", type=int, default=8192)
    parser.add_argument("--mpp", type=float, default=0.25)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.tif"
        write_slide(path, lay_out(args.pictures, args.side))
        info = inspect_slide(path, "slide", args.mpp)
        shape = tuple(-(-side // 32) for side in info.size_px[::-1])
        tissue = TissueMask(np.ones(shape, bool), np.array(info.mpp) * 32, None, info.area_mm2)
        print(
            f"{info.area_mm2:.1f} mm2, {path.stat().st_size / info.area_mm2 / 1e6:.1f} MB/mm2, {args.threads} threads"
        )
        print("| reading s/mm2 | muse tile s/mm2 | its own s/mm2 |\n|---|---|---|")
        read, whole = time_reading(path, info, tissue, args.threads), time_tile(path, info, tissue, args.threads)
        print(f"| {read:.3f} | {whole:.3f} | {whole - read:.3f} |")


def time_reading(path: Path, info, tissue: TissueMask, threads: int) -> float:
    """Seconds per mm2 to read the chunks that ``muse tile`` reads, and nothing else."""
    with open_slide(path) as slide, ThreadPoolExecutor(threads) as pool:
        reader = AreaReader(slide, info, 0.5)
        chunks = chunks_by_shard(chunks_with_tissue(tissue, 0.5, reader.size_px, 0))
        scale = 0.5 / info.mpp[0]

        def read(chunk: Chunk) -> None:
            corner, size = (tuple(round(at * scale) for at in pair) for pair in (chunk.xy, chunk.size(reader.size_px)))
            slide.read_region(corner, 0, size)

        started = time.process_time()
        list(pool.map(read, chunks))
        return (time.process_time() - started) / info.area_mm2 / threads


def time_tile(path: Path, info, tissue: TissueMask, threads: int) -> float:
    """Seconds per mm2 of ``write_store``."""
    with open_slide(path) as slide:
        started = time.process_time()
        write_store(slide, info, tissue, path.with_suffix(".zarr"), threads=threads)
        return (time.process_time() - started) / info.area_mm2 / threads


if __name__ == "__main__":
    main()
