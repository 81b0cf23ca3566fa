"""Synthesise the 40x slides on which speed is measured, and print the time that this takes.

    python benchmarks/draw_slides.py OUT_DIR [--areas-mm2 20 100] [--sides-px 40000 90000] \
        [--threads 2]
    python benchmarks/draw_slides.py OUT_DIR --areas-mm2 15 --sides-px 31623 --repeat-px 100000

Every slide is written as by `muse demo-slide` into a separate folder, OUT_DIR/20mm2 and so on. With
--sides-px, each slide lies on a square glass of this side in pixels, rounded up to whole blocks of
1,024. With --repeat-px, copies of each slide are also laid side by side over a glass of this side,
in OUT_DIR/20mm2-repeated. This takes only seconds, because compressed tiles are copied.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import tifffile

from muse_pipeline.core.environment import peak_memory_mib
from muse_pipeline.core.files import complete_file
from muse_pipeline.demo.tissue import Tissue, plan_tissue
from muse_pipeline.demo.write import BLOCK_PX, QUALITY, TILE_PX, describe, write_demo, write_tissue

MPP = 0.25


def main() -> None:
    """Write the slides one after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="OUT_DIR")
    parser.add_argument("--areas-mm2", type=float, nargs="+", default=[20.0, 100.0])
    parser.add_argument("--sides-px", type=int, nargs="+", help="one for each area")
    parser.add_argument(
        "--repeat-px", type=int, help="side of a glass that each slide is also repeated over"
    )
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    sides_px = args.sides_px or [None] * len(args.areas_mm2)
    for area, side_px in zip(args.areas_mm2, sides_px, strict=True):
        folder = args.folder / f"{area:g}mm2"
        started = time.monotonic()
        n_nuclei = write_tissue(folder, plan_on_glass(area, side_px), MPP, args.threads)
        seconds, size = time.monotonic() - started, (folder / "demo.svs").stat().st_size / 1e6
        print(
            f"{area:g} mm2: {n_nuclei:,} nuclei, {seconds:.0f} s, {size:.0f} MB, peak so far"
            f" {peak_memory_mib()} MiB"
        )
        if args.repeat_px:
            repeat_slide(
                folder, folder.with_name(f"{folder.name}-repeated"), -(-args.repeat_px // BLOCK_PX)
            )


def plan_on_glass(area_mm2: float, side_px: int | None) -> Tissue:
    """Plan a tissue on a square glass of side ``side_px``, or on the smallest glass if that is
    None.
    """
    tissue = plan_tissue(area_mm2, seed=0)
    if side_px is None:
        return tissue
    if side_px * MPP < max(tissue.layout.size_um):
        raise SystemExit(
            f"{area_mm2:g} mm2 of tissue do not fit on a glass of {side_px} px; give a larger"
            " --sides-px"
        )
    return replace(tissue, layout=replace(tissue.layout, size_um=(side_px * MPP,) * 2))


def lay_out(folder: Path, area_mm2: float, field_mm2: float = 4.0, threads: int = 2) -> None:
    """Write a slide with about ``area_mm2`` of tissue into ``folder``, made of copies of one
    synthetic field.
    """
    field = folder.with_name(f"field-{field_mm2:g}mm2")
    if not (field / "demo.svs").is_file():
        write_demo(field, field_mm2, MPP, threads=threads)
    with tifffile.TiffFile(field / "demo.svs") as source:
        height, width = (side / BLOCK_PX for side in source.pages[0].shape[:2])
    repeat_slide(field, folder, round((area_mm2 / field_mm2 * height * width) ** 0.5))
    shutil.copy(field / "config.yaml", folder / "config.yaml")


def repeat_slide(folder: Path, repeated: Path, n_blocks: int) -> None:
    """Lay copies of a slide side by side over ``n_blocks`` by ``n_blocks`` blocks; the
    outermost are cut off.
    """
    side = n_blocks * BLOCK_PX
    tiled = {
        "photometric": "rgb",
        "compression": "jpeg",
        "subsampling": (2, 2),
        "tile": (TILE_PX, TILE_PX),
    }
    tiled["compressionargs"] = {"level": QUALITY}
    plain = {"metadata": None, "software": False}
    with (
        tifffile.TiffFile(folder / "demo.svs") as source,
        complete_file(repeated / "demo.svs") as partial,
        tifffile.TiffWriter(partial, bigtiff=True) as tiff,
    ):
        whole, thumbnail, quarter, sixteenth = source.pages
        n_thumbnail = n_blocks * thumbnail.shape[0] // (whole.shape[0] // BLOCK_PX)
        small = _repeat(sixteenth.asarray(), side // 16)
        levels = [
            (_repeat_tiles(whole, side // TILE_PX), side, describe(side, side, MPP)),
            (_repeat_tiles(quarter, side // 4 // TILE_PX), side // 4, "Aperio level"),
            (_cut_tiles(small), side // 16, "Aperio level"),
        ]
        for number, (tiles, side_px, description) in enumerate(levels):
            shape = {"shape": (side_px, side_px, 3), "dtype": np.uint8, "description": description}
            tiff.write(
                tiles,
                resolution=(1e4 / MPP, 1e4 / MPP),
                resolutionunit="CENTIMETER",
                **shape,
                **tiled,
                **plain,
            )
            if number == 0:
                picture = _repeat(thumbnail.asarray(), n_thumbnail)
                tiff.write(picture, photometric="rgb", description="Aperio thumbnail", **plain)
    shutil.copy(folder / "slides.tsv", repeated / "slides.tsv")


def _repeat_tiles(page: tifffile.TiffPage, n: int) -> Iterator[bytes]:
    """Yield ``n`` by ``n`` compressed tiles by repeating those of a level, which must consist
    of whole tiles.
    """
    rows, columns = (side // TILE_PX for side in page.shape[:2])
    for row in range(n):
        for column in range(n):
            index = row % rows * columns + column % columns
            page.parent.filehandle.seek(page.dataoffsets[index])
            yield page.parent.filehandle.read(page.databytecounts[index])


def _repeat(picture: np.ndarray, side: int) -> np.ndarray:
    rows, columns = (np.arange(side) % length for length in picture.shape[:2])
    return picture[rows[:, None], columns]


def _cut_tiles(picture: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the tiles of a small level, padded with white."""
    missing = -len(picture) % TILE_PX
    padded = np.pad(picture, ((0, missing), (0, missing), (0, 0)), constant_values=255)
    for y in range(0, len(padded), TILE_PX):
        for x in range(0, len(padded), TILE_PX):
            yield np.ascontiguousarray(padded[y : y + TILE_PX, x : x + TILE_PX])


if __name__ == "__main__":
    main()
