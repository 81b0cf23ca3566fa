"""Paint a synthetic slide, and write it with its true nuclei, and a sheet and a config to run the
workflow on it.

Any block is painted at any pixel size, reproducibly. The space between nuclei is collagen,
cytoplasm of glands, or empty. All of it is painted as amounts of haematoxylin and eosin, which are
converted to light at the end. The slide is a tiled JPEG pyramid like those of Aperio's scanners,
with levels that are 4 and 16 times smaller. It is written row by row of blocks; the smaller levels
are kept in a temporary file.
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
from numpy import ndarray

from muse_pipeline.core.errors import ConfigError
from muse_pipeline.core.files import complete_file
from muse_pipeline.demo.field import FLOW_SLOPE, HAEMATOXYLIN, Island, Window, smoothstep
from muse_pipeline.demo.tissue import (
    CELL_REACH_UM,
    CLASSES,
    DENSITY_STEP,
    LYMPHOCYTE,
    Tissue,
    cells_in,
    plan_tissue,
    without_ipp,
)

# coarser slides are painted at this pixel size or finer, then averaged as by a camera
FINEST_MPP = 0.25
HALO_UM, FOLD_HALO_UM = 4.0, 28.0
PAINTED_PX = 512  # side of a block that fits in the CPU's caches
OPTICS_UM, DEFOCUS_UM = 0.22, 0.95  # standard deviations of the blur
GLASS = (243, 243, 245)
PEN_DENSITY = np.array([1.55, 0.95, 0.28], np.float32)
CELL_EOSIN = 0.23  # amount of eosin in a nucleus
BROWN = np.array([0.62, 1.31, 1.79])  # optical density of DAB in place of a unit of haematoxylin
# nuclei, background, marked nuclei
SECOND_STAINS = np.stack([0.55 * HAEMATOXYLIN, 0.06 * HAEMATOXYLIN, 0.6 * BROWN])


@without_ipp()
def paint_block(tissue: Tissue, window: Window, marked: int | None = None) -> ndarray:
    """The pixels (h, w, 3) uint8 of a rectangle of glass, painted block by block.

    An immunostain marks the nuclei of the class ``marked``, an index in ``tissue.CLASSES``, brown;
    None for H&E.
    """
    width, height = window.size
    times = max(1, int(np.ceil(window.mpp / FINEST_MPP - 1e-9)))
    side = max(1, PAINTED_PX // times)
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, side):
        for left in range(0, width, side):
            size = min(side, width - left), min(side, height - top)
            corner = window.x_um + left * window.mpp, window.y_um + top * window.mpp
            block = Window(*corner, window.mpp, size)
            pixels[top:, left:][: size[1], : size[0]] = _paint_block(tissue, block, times, marked)
    return pixels


def _paint_block(tissue: Tissue, window: Window, times: int, marked: int | None) -> ndarray:
    fine = Window(
        window.x_um,
        window.y_um,
        window.mpp / times,
        (window.size[0] * times, window.size[1] * times),
    )
    density = np.zeros((*fine.size[::-1], 3), np.float32)
    for island in tissue.layout.islands:
        if island.may_show(fine):
            density += _paint_island(tissue, island, fine, marked)
    if marked is None and tissue.layout.pen.may_show(fine):
        density += _paint_pen(tissue, fine)
    light = cv2.exp(-density) * np.array(GLASS, np.float32)
    if times > 1:
        light = cv2.resize(light, window.size, interpolation=cv2.INTER_AREA)
    # The camera's noise at a pixel does not depend on the window.
    column, row = (round(start / window.mpp) for start in (window.x_um, window.y_um))
    rows = np.arange(row, row + window.size[1])[:, None] % len(tissue.noise)
    noise = tissue.noise[rows, np.arange(column, column + window.size[0]) % len(tissue.noise)]
    return np.clip(np.rint(light + noise), 0, 255).astype(np.uint8)


def is_blank(tissue: Tissue, window: Window) -> bool:
    """True if a window shows only glass."""
    return not any(thing.may_show(window) for thing in (*tissue.layout.islands, tissue.layout.pen))


def _paint_island(tissue: Tissue, island: Island, window: Window, marked: int | None) -> ndarray:
    """Optical density (h, w, 3) float32 of an island, computed with a halo for the blur and the
    fold.
    """
    is_folded = tissue.layout.fold.may_show(window)
    halo = int(np.ceil((FOLD_HALO_UM if is_folded else HALO_UM) / window.mpp))
    wide = window.widened(halo)
    ground, defocus = _stain_ground(tissue, wide.moved(*island.shift_um))
    stain = np.dstack(ground if marked is None else [*ground, np.zeros_like(ground[0])])
    _press_cells(tissue, island, stain, wide, marked)
    if island.extent_um(wide)[0] < 0:
        stain *= smoothstep(island.inside_um(*wide.centres(), tissue.rag), -1.5, 1.5)[..., None]
    if is_folded:
        stain = _fold(tissue, stain, wide)
    sharp = cv2.GaussianBlur(stain, (0, 0), OPTICS_UM / window.mpp)
    if defocus.any():
        sharp += defocus[..., None] * (
            cv2.GaussianBlur(stain, (0, 0), DEFOCUS_UM / window.mpp) - sharp
        )
    stains = island.stains if marked is None else SECOND_STAINS
    return cv2.transform(sharp[halo:-halo, halo:-halo], np.ascontiguousarray(stains.T))


def _stain_ground(tissue: Tissue, window: Window) -> tuple[tuple[ndarray, ndarray], ndarray]:
    """Amounts of haematoxylin and eosin before nuclei are added, and the blur; ``window`` is in um
    of the field.
    """
    depth, hollow, flow, loose = cv2.split(tissue.field.shape.view(window))
    crowd, defocus = cv2.split(tissue.field.state.view(window))
    fine, coarse = cv2.split(tissue.grain.view(window))
    x, y = window.centres()
    flow += np.float32(FLOW_SLOPE) * y + 0.5 * coarse + 0.2 * fine
    fibre, thin, cleft = cv2.split(tissue.fibres.at(x + 0.25 * y + 2 * coarse, flow))
    fibre = 0.6 * fibre + 0.4 * thin
    # Collagen is dense or loose, pale among lymphocytes, and has clefts between bundles.
    there = 1 - 0.92 * smoothstep(cleft + 0.25 * loose - 0.8 * crowd, 1.45, 1.8)
    pink = 0.68 + 0.20 * fibre + 0.07 * fine - loose * (0.34 - 0.04 * fibre)
    pink += 0.8 * crowd * (0.20 + 0.09 * coarse + 0.06 * fine - pink)
    blue = 0.05 + 0.10 * loose + 0.05 * fibre * loose + 0.03 * fine + 0.08 * crowd
    stroma = np.maximum(blue, 0.02) * there, np.maximum(pink, 0.04) * there
    # Cytoplasm is grainy, and paler towards the lumen.
    apex = smoothstep(hollow, -11, -1)
    cytoplasm = (
        0.30 + 0.07 * coarse + 0.05 * fine - 0.06 * apex,
        0.44 + 0.08 * coarse + 0.06 * fine - 0.12 * apex,
    )
    gland = smoothstep(depth, -0.8, 0.8)
    full = 1 - smoothstep(hollow + 0.5 * coarse, -0.7, 0.7)
    blue, pink = (
        (low + gland * (high - low)) * full for low, high in zip(stroma, cytoplasm, strict=True)
    )
    return (blue, pink), defocus


def _press_cells(
    tissue: Tissue, island: Island, stain: ndarray, window: Window, marked: int | None
) -> None:
    cells = cells_in(tissue, island, window, CELL_REACH_UM)
    rows, columns = stain.shape[:2]
    for (x, y), label, stamp, angle, mirror, scale, strength in cells.tolist():
        (row, column), pressed = tissue.stamps.press(stamp, x, y, angle, mirror, scale, window)
        top, left = max(row, 0), max(column, 0)
        pressed = pressed[top - row : max(rows - row, 0), left - column : max(columns - column, 0)]
        under = stain[top : top + pressed.shape[0], left : left + pressed.shape[1]]
        pressed = pressed * np.array([1 / 255, strength * DENSITY_STEP], np.float32)
        cover = pressed[..., :1]
        under *= 1 - 0.8 * cover
        under[..., 2 if label == marked else 0] += pressed[..., 1]
        under[..., 1] += CELL_EOSIN * cover[..., 0]


def _fold(tissue: Tissue, stain: ndarray, window: Window) -> ndarray:
    """Add a second layer of tissue within the fold, displaced and out of focus."""
    shift = np.array([[1, 0, 13.0 / window.mpp], [0, 1, -17.0 / window.mpp]])
    second = cv2.GaussianBlur(stain, (0, 0), 1.6 / window.mpp)
    second = cv2.warpAffine(second, shift, window.size, borderMode=cv2.BORDER_REPLICATE)
    inside = tissue.layout.fold.inside_um(*window.centres())
    ridge = 1.2 + 0.35 * np.exp(-((inside - 3) ** 2) / 12)
    return stain + (smoothstep(inside, -1.5, 1.5) * ridge)[..., None] * second


def _paint_pen(tissue: Tissue, window: Window) -> ndarray:
    x, y = np.broadcast_arrays(*window.centres())
    inside = tissue.layout.pen.inside_um(x, y) + 5 * tissue.rag.at(x, y)
    streaks = 0.85 + 0.07 * tissue.rag.at(6 * x, 0.3 * y)
    return (smoothstep(inside, -5, 8) * streaks)[..., None] * PEN_DENSITY


# a block becomes one tile of the next level, which is four times smaller
TILE_PX, BLOCK_PX = 256, 1024
QUALITY = 80
# function of column and row: (BLOCK_PX, BLOCK_PX, 3) uint8
PaintBlock = Callable[[int, int], ndarray]


def write_pyramid(
    path: Path, paint: PaintBlock, n_blocks: tuple[int, int], mpp: float, threads: int
) -> None:
    """Write a slide in the order that readers of Aperio's format expect: level 0, thumbnail,
    smaller levels.
    """
    width, height = (n * BLOCK_PX for n in n_blocks)
    plain = {"metadata": None, "software": False}
    jpeg = {
        "photometric": "rgb",
        "compression": "jpeg",
        "subsampling": (2, 2),
        "maxworkers": threads,
    }
    tiled = {**plain, **jpeg, "compressionargs": {"level": QUALITY}, "tile": (TILE_PX, TILE_PX)}
    resolution = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    with TemporaryFile() as file, tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiles = _paint_tiles(paint, n_blocks, file, threads)
        shape = (height, width, 3)
        tiff.write(
            tiles,
            shape=shape,
            dtype=np.uint8,
            description=describe(width, height, mpp),
            **resolution,
            **tiled,
        )
        file.flush()
        quarter = np.memmap(file, np.uint8, "r", shape=(height // 4, width // 4, 3))
        tiff.write(_shrink(quarter, 16), photometric="rgb", description="Aperio thumbnail", **plain)
        for level in (quarter, _shrink(quarter, 4)):
            tiff.write(level, description="Aperio level", **tiled)


def _paint_tiles(
    paint: PaintBlock, n_blocks: tuple[int, int], file: IO, threads: int
) -> Iterator[ndarray]:
    """Paint a row of blocks at a time, yield its tiles, and write the pixels of the next level to
    ``file``.
    """
    starts = range(0, BLOCK_PX, TILE_PX)
    with ThreadPoolExecutor(threads) as pool:
        for row in range(n_blocks[1]):
            blocks = list(pool.map(paint, range(n_blocks[0]), repeat(row)))
            smaller = [
                cv2.resize(block, (TILE_PX, TILE_PX), interpolation=cv2.INTER_AREA)
                for block in blocks
            ]
            file.write(np.hstack(smaller))
            for y, block, x in product(starts, blocks, starts):
                yield np.ascontiguousarray(block[y : y + TILE_PX, x : x + TILE_PX])


def _shrink(level: ndarray, times: int) -> ndarray:
    """A level that is ``times`` smaller, made from one row of tiles at a time."""
    size = level.shape[1] // times, TILE_PX // times
    strips = (level[top : top + TILE_PX] for top in range(0, len(level), TILE_PX))
    return np.concatenate(
        [cv2.resize(strip, size, interpolation=cv2.INTER_AREA) for strip in strips]
    )


def describe(width: int, height: int, mpp: float) -> str:
    """The description by which OpenSlide and tiffslide recognise the format and the pixel size."""
    return (
        f"Aperio Image Library v0 (drawn by muse demo-slide)\r\n{width}x{height}"
        f" ({TILE_PX}x{TILE_PX}) JPEG/RGB Q={QUALITY}|AppMag = {10 / mpp:g}|MPP = {mpp:g}"
    )


def write_demo(
    folder: Path,
    area_mm2: float = 7.0,
    mpp: float = 0.25,
    seed: int = 0,
    threads: int = 1,
    partner: bool = False,
) -> int:
    """Write ``demo.svs``, ``truth.csv``, ``slides.tsv`` and ``config.yaml``; return the number of
    true nuclei.

    The same seed gives the same tissue at every mpp. With ``partner``, ``ihc.svs`` is the same
    glass, turned by 180 degrees, with lymphocytes stained brown. The number of threads does not
    change the files.
    """
    if not 0.05 <= area_mm2 <= 2000:
        raise ConfigError(
            f"--area-mm2 {area_mm2:g}: a demo slide has 0.05 to 2000 mm2 of tissue; choose within"
        )
    # A block must be narrower than the period of the tissue; otherwise ``cells_in`` would miss
    # repeated cells.
    if not 0.1 <= mpp <= 2.5:
        raise ConfigError(f"--mpp {mpp:g}: a demo slide has 0.1 to 2.5 um per pixel; choose within")
    return write_tissue(folder, plan_tissue(area_mm2, seed), mpp, threads, partner)


def write_tissue(
    folder: Path, tissue: Tissue, mpp: float, threads: int = 1, partner: bool = False
) -> int:
    """Write the files of ``write_demo`` for a tissue, and return the number of its nuclei."""
    cv2.setNumThreads(1)
    columns, rows = (int(np.ceil(side / (BLOCK_PX * mpp))) for side in tissue.layout.size_um)
    # painted only once, as the camera's noise repeats
    glass = paint_block(tissue, _block_at(-1000, 0, mpp))

    def paint(column: int, row: int) -> ndarray:
        window = _block_at(column, row, mpp)
        return glass if is_blank(tissue, window) else paint_block(tissue, window)

    def paint_partner(column: int, row: int) -> ndarray:
        pixels = paint_block(
            tissue, _block_at(columns - 1 - column, rows - 1 - row, mpp), LYMPHOCYTE
        )
        return np.ascontiguousarray(np.rot90(pixels, 2))

    for name, painter in {"demo": paint, **({"ihc": paint_partner} if partner else {})}.items():
        with complete_file(folder / f"{name}.svs") as partial:
            write_pyramid(partial, painter, (columns, rows), mpp, threads)
    n_nuclei = write_truth(folder / "truth.csv", tissue, mpp, (columns, rows))
    sheet = {
        "slide_id": "demo",
        "path": "demo.svs",
        "organ": "breast",
        **({"partner": "ihc.svs"} if partner else {}),
    }
    settings = yaml.safe_dump(
        {"slides": str(folder / "slides.tsv"), "output": str(folder / "results")}
    )
    lines = ["\t".join(sheet), "\t".join(sheet.values()), ""]
    for name, text in {"slides.tsv": "\n".join(lines), "config.yaml": settings}.items():
        with complete_file(folder / name) as partial:
            partial.write_text(text, encoding="utf-8")
    return n_nuclei


SCHEMA = pa.schema([("x", pa.float64()), ("y", pa.float64()), ("class", pa.string())])


def write_truth(path: Path, tissue: Tissue, mpp: float, n_blocks: tuple[int, int]) -> int:
    """Write the true nuclei, ``x`` and ``y`` in level-0 px and ``class``, block by block; return
    their number.
    """
    n_nuclei = 0
    with complete_file(path) as partial, pa.csv.CSVWriter(partial, SCHEMA) as csv:
        for row, column in np.ndindex(n_blocks[::-1]):
            window = _block_at(column, row, mpp)
            for island in (island for island in tissue.layout.islands if island.may_show(window)):
                cells = cells_in(tissue, island, window)
                names = np.array(CLASSES)[cells["label"]]
                csv.write_table(
                    pa.table([*(cells["xy_um"] / mpp).round(2).T, names], schema=SCHEMA)
                )
                n_nuclei += len(cells)
    return n_nuclei


def _block_at(column: int, row: int, mpp: float) -> Window:
    side = BLOCK_PX * mpp
    return Window(column * side, row * side, mpp, (BLOCK_PX, BLOCK_PX))
