"""The demo's folder: the slide, its true nuclei, and a sheet and a config to run the workflow on it.

The slide is a tiled JPEG pyramid like those of Aperio's scanners, with levels that are 4 and 16 times smaller.
It is written row by row of blocks; the smaller levels are kept in a temporary file.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product, repeat
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.csv
import tifffile
import yaml

from muse_pipeline.core.errors import ConfigError
from muse_pipeline.core.files import complete_file
from muse_pipeline.demo.field import Window
from muse_pipeline.demo.paint import is_blank, paint_block
from muse_pipeline.demo.stamps import CLASSES, LYMPHOCYTE
from muse_pipeline.demo.tissue import Tissue, cells_in, disable_ipp, plan_tissue

TILE_PX, BLOCK_PX = 256, 1024  # a block becomes one tile of the next level, which is four times smaller
QUALITY = 80
PaintBlock = Callable[[int, int], np.ndarray]  # function of column and row: (BLOCK_PX, BLOCK_PX, 3) uint8


def write_pyramid(path: Path, paint: PaintBlock, n_blocks: tuple[int, int], mpp: float, threads: int) -> None:
    """Write a slide in the order that readers of Aperio's format expect: level 0, thumbnail, smaller levels."""
    width, height = (n * BLOCK_PX for n in n_blocks)
    plain = {"metadata": None, "software": False}
    jpeg = {"photometric": "rgb", "compression": "jpeg", "subsampling": (2, 2), "maxworkers": threads}
    tiled = {**plain, **jpeg, "compressionargs": {"level": QUALITY}, "tile": (TILE_PX, TILE_PX)}
    resolution = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    with TemporaryFile() as file, tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiles, shape = _paint_tiles(paint, n_blocks, file, threads), (height, width, 3)
        tiff.write(tiles, shape=shape, dtype=np.uint8, description=describe(width, height, mpp), **resolution, **tiled)
        file.flush()
        quarter = np.memmap(file, np.uint8, "r", shape=(height // 4, width // 4, 3))
        tiff.write(_shrink(quarter, 16), photometric="rgb", description="Aperio thumbnail", **plain)
        for level in (quarter, _shrink(quarter, 4)):
            tiff.write(level, description="Aperio level", **tiled)


def _paint_tiles(paint: PaintBlock, n_blocks: tuple[int, int], file: IO, threads: int) -> Iterator[np.ndarray]:
    """Paint a row of blocks at a time, yield its tiles, and write the pixels of the next level to ``file``."""
    starts = range(0, BLOCK_PX, TILE_PX)
    with ThreadPoolExecutor(threads, initializer=disable_ipp) as pool:
        for row in range(n_blocks[1]):
            blocks = list(pool.map(paint, range(n_blocks[0]), repeat(row)))
            smaller = [cv2.resize(block, (TILE_PX, TILE_PX), interpolation=cv2.INTER_AREA) for block in blocks]
            file.write(np.hstack(smaller))
            for y, block, x in product(starts, blocks, starts):
                yield np.ascontiguousarray(block[y : y + TILE_PX, x : x + TILE_PX])


def _shrink(level: np.ndarray, times: int) -> np.ndarray:
    """A level that is ``times`` smaller, made from one row of tiles at a time."""
    size = level.shape[1] // times, TILE_PX // times
    strips = (level[top : top + TILE_PX] for top in range(0, len(level), TILE_PX))
    return np.concatenate([cv2.resize(strip, size, interpolation=cv2.INTER_AREA) for strip in strips])


def describe(width: int, height: int, mpp: float) -> str:
    """The description by which OpenSlide and tiffslide recognise the format and the pixel size."""
    return (
        f"Aperio Image Library v0 (drawn by muse demo-slide)\r\n{width}x{height} ({TILE_PX}x{TILE_PX}) JPEG/RGB "
        f"Q={QUALITY}|AppMag = {10 / mpp:g}|MPP = {mpp:g}"
    )


def write_demo(
    folder: Path, area_mm2: float = 7.0, mpp: float = 0.25, seed: int = 0, threads: int = 1, partner: bool = False
) -> int:
    """Write ``demo.svs``, ``truth.csv``, ``slides.tsv`` and ``config.yaml``; return the number of true nuclei.

    The same seed gives the same tissue at every mpp. With ``partner``, ``ihc.svs`` is the same glass, turned by 180
    degrees, with lymphocytes stained brown. The number of threads does not change the files.
    """
    if not 0.05 <= area_mm2 <= 2000:
        raise ConfigError(f"--area-mm2 {area_mm2:g}: a demo slide has 0.05 to 2000 mm2 of tissue; choose within")
    # A block must be narrower than the period of the tissue; otherwise ``cells_in`` would miss repeated cells.
    if not 0.1 <= mpp <= 2.5:
        raise ConfigError(f"--mpp {mpp:g}: a demo slide has 0.1 to 2.5 um per pixel; choose within")
    return write_tissue(folder, plan_tissue(area_mm2, seed), mpp, threads, partner)


def write_tissue(folder: Path, tissue: Tissue, mpp: float, threads: int = 1, partner: bool = False) -> int:
    """Write the files of ``write_demo`` for a tissue, and return the number of its nuclei."""
    cv2.setNumThreads(1)
    columns, rows = (int(np.ceil(side / (BLOCK_PX * mpp))) for side in tissue.layout.size_um)
    glass = paint_block(tissue, _block_at(-1000, 0, mpp))  # painted only once, as the camera's noise repeats

    def paint(column: int, row: int) -> np.ndarray:
        window = _block_at(column, row, mpp)
        return glass if is_blank(tissue, window) else paint_block(tissue, window)

    def paint_partner(column: int, row: int) -> np.ndarray:
        pixels = paint_block(tissue, _block_at(columns - 1 - column, rows - 1 - row, mpp), LYMPHOCYTE)
        return np.ascontiguousarray(np.rot90(pixels, 2))

    for name, painter in {"demo": paint, **({"ihc": paint_partner} if partner else {})}.items():
        with complete_file(folder / f"{name}.svs") as partial:
            write_pyramid(partial, painter, (columns, rows), mpp, threads)
    n_nuclei = write_truth(folder / "truth.csv", tissue, mpp, (columns, rows))
    sheet = {"slide_id": "demo", "path": "demo.svs", "organ": "breast", **({"partner": "ihc.svs"} if partner else {})}
    settings = yaml.safe_dump({"slides": str(folder / "slides.tsv"), "output": str(folder / "results")})
    lines = ["\t".join(sheet), "\t".join(sheet.values()), ""]
    for name, text in {"slides.tsv": "\n".join(lines), "config.yaml": settings}.items():
        with complete_file(folder / name) as partial:
            partial.write_text(text, encoding="utf-8")
    return n_nuclei


SCHEMA = pa.schema([("x", pa.float64()), ("y", pa.float64()), ("class", pa.string())])


def write_truth(path: Path, tissue: Tissue, mpp: float, n_blocks: tuple[int, int]) -> int:
    """Write the true nuclei, ``x`` and ``y`` in level-0 px and ``class``, block by block; return their number."""
    n_nuclei = 0
    with complete_file(path) as partial, pa.csv.CSVWriter(partial, SCHEMA) as csv:
        for row, column in np.ndindex(n_blocks[::-1]):
            window = _block_at(column, row, mpp)
            for island in (island for island in tissue.layout.islands if island.may_show(window)):
                cells = cells_in(tissue, island, window)
                names = np.array(CLASSES)[cells["label"]]
                csv.write_table(pa.table([*(cells["xy_um"] / mpp).round(2).T, names], schema=SCHEMA))
                n_nuclei += len(cells)
    return n_nuclei


def _block_at(column: int, row: int, mpp: float) -> Window:
    side = BLOCK_PX * mpp
    return Window(column * side, row * side, mpp, (BLOCK_PX, BLOCK_PX))
