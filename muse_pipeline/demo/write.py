"""The demo's folder: the slide, its true nuclei, and a sheet and a config to run the workflow on it.

The slide is a tiled, JPEG-compressed pyramid like those of Aperio's scanners, with level 0 and levels that are 4 and 16
times smaller. It is written block by block: memory holds only the tiles of one row of blocks, one row of tiles of the
smallest level, and a thumbnail; finished tiles of the smaller levels are kept in temporary files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import tifffile
import yaml

from muse_pipeline.core.errors import ConfigError
from muse_pipeline.core.files import complete_file
from muse_pipeline.demo.field import Window
from muse_pipeline.demo.paint import is_blank, paint_block
from muse_pipeline.demo.stamps import CLASSES, LYMPHOCYTE
from muse_pipeline.demo.tissue import TRUTH_RAYS, Tissue, disable_ipp, plan_tissue, true_nuclei
from muse_pipeline.nuclei.table import Nuclei

TILE_PX, BLOCK_PX = 256, 1024  # a block becomes one tile of the next level, which is four times smaller
QUALITY = 80
PaintBlock = Callable[[int, int], np.ndarray]


class TileSpool:
    """Compressed tiles of one level, stored on disk until that level is written."""

    def __init__(self) -> None:
        self._file = TemporaryFile()  # noqa: SIM115  closed and thus deleted by ``drain``
        self._lengths: list[int] = []

    def add(self, tile: bytes) -> None:
        """Append a tile."""
        self._file.write(tile)
        self._lengths.append(len(tile))

    def drain(self) -> Iterator[bytes]:
        """Yield all tiles in the order in which they were added, then delete them."""
        self._file.seek(0)
        for length in self._lengths:
            yield self._file.read(length)
        self._file.close()


class PyramidPainter:
    """Paints rows of blocks, yields their tiles, and collects the tiles of the smaller levels.

    Args:
        paint: function that returns the pixels (BLOCK_PX, BLOCK_PX, 3) uint8 of the block at (column, row).
        n_blocks: (columns, rows) of blocks.
        threads: number of blocks painted at a time.
    """

    def __init__(self, paint: PaintBlock, n_blocks: tuple[int, int], threads: int) -> None:
        self.paint, self.n_blocks, self.threads = paint, n_blocks, threads
        self.quarter, self.sixteenth = TileSpool(), TileSpool()
        self.thumbnail = np.full((n_blocks[1] * 16, n_blocks[0] * 16, 3), 255, np.uint8)
        self._strip = np.full((TILE_PX, -(-n_blocks[0] // 4) * TILE_PX, 3), 255, np.uint8)

    def tiles(self) -> Iterator[bytes]:
        """Yield the tiles of level 0."""
        columns, rows = self.n_blocks
        with ThreadPoolExecutor(self.threads, initializer=disable_ipp) as pool:
            for row in range(rows):
                blocks = list(pool.map(lambda column, row=row: self._block(column, row), range(columns)))
                self._set_aside(row, blocks)
                for line in range(BLOCK_PX // TILE_PX):
                    for tiles, *_ in blocks:
                        yield from tiles[line]

    def _block(self, column: int, row: int) -> tuple[list[list[bytes]], bytes, np.ndarray]:
        pixels = self.paint(column, row)
        starts = range(0, BLOCK_PX, TILE_PX)
        tiles = [[encode(pixels[y : y + TILE_PX, x : x + TILE_PX]) for x in starts] for y in starts]
        quarter = cv2.resize(pixels, None, fx=1 / 4, fy=1 / 4, interpolation=cv2.INTER_AREA)
        return tiles, encode(quarter), cv2.resize(quarter, None, fx=1 / 4, fy=1 / 4, interpolation=cv2.INTER_AREA)

    def _set_aside(self, row: int, blocks: list) -> None:
        for column, (_, quarter, small) in enumerate(blocks):
            self.quarter.add(quarter)
            self._strip[row % 4 * 64 :][:64, column * 64 : column * 64 + 64] = small
            tiny = cv2.resize(small, (16, 16), interpolation=cv2.INTER_AREA)
            self.thumbnail[row * 16 : row * 16 + 16, column * 16 : column * 16 + 16] = tiny
        if row % 4 == 3 or row == self.n_blocks[1] - 1:
            for x in range(0, self._strip.shape[1], TILE_PX):
                self.sixteenth.add(encode(self._strip[:, x : x + TILE_PX]))
            self._strip[:] = 255


def encode(rgb: np.ndarray) -> bytes:
    """Encode pixels as JPEG, with half the colour resolution in both directions."""
    sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    return cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY, *sampling])[1].tobytes()


def write_pyramid(path: Path, paint: PaintBlock, n_blocks: tuple[int, int], mpp: float, threads: int) -> None:
    """Write a slide in the order that readers of Aperio's format expect: level 0, thumbnail, smaller levels."""
    painter = PyramidPainter(paint, n_blocks, threads)
    width, height = (n * BLOCK_PX for n in n_blocks)
    plain = {"metadata": None, "software": False}
    jpeg = {"photometric": "ycbcr", "compression": "jpeg", "subsampling": (2, 2)}
    tiled = {**plain, **jpeg, "dtype": np.uint8, "tile": (TILE_PX, TILE_PX)}
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        # Writing level 0 also fills the thumbnail and the spools of the smaller levels.
        tiff.write(
            painter.tiles(),
            shape=(height, width, 3),
            description=describe(width, height, mpp),
            resolution=(1e4 / mpp, 1e4 / mpp),
            resolutionunit="CENTIMETER",
            **tiled,
        )
        tiff.write(painter.thumbnail, photometric="rgb", description="Aperio thumbnail", **plain)
        for times, spool in ((4, painter.quarter), (16, painter.sixteenth)):
            tiff.write(spool.drain(), shape=(height // times, width // times, 3), description="Aperio level", **tiled)


def describe(width: int, height: int, mpp: float) -> str:
    """The description by which OpenSlide and tiffslide recognise the format and the pixel size."""
    return (
        f"Aperio Image Library v0 (drawn by muse demo-slide)\r\n{width}x{height} ({TILE_PX}x{TILE_PX}) JPEG/RGB "
        f"Q={QUALITY}|AppMag = {10 / mpp:g}|MPP = {mpp:g}"
    )


@dataclass(frozen=True)
class Blocks:
    """A synthetic slide as a grid of blocks at a fixed mpp."""

    tissue: Tissue
    mpp: float

    @property
    def n(self) -> tuple[int, int]:
        """Number of blocks, as (columns, rows)."""
        width, height = (int(np.ceil(side / (BLOCK_PX * self.mpp))) for side in self.tissue.layout.size_um)
        return width, height

    def window(self, column: int, row: int) -> Window:
        """The rectangle of a block."""
        side = BLOCK_PX * self.mpp
        return Window(column * side, row * side, self.mpp, (BLOCK_PX, BLOCK_PX))


def write_demo(
    folder: Path,
    area_mm2: float = 7.0,
    mpp: float = 0.25,
    seed: int = 0,
    threads: int = 1,
    side_um: float | None = None,
    partner: bool = False,
) -> int:
    """Write ``demo.svs``, ``truth.csv``, ``truth.parquet``, ``slides.tsv`` and ``config.yaml`` into ``folder``.

    Args:
        folder: folder to write to, created if missing.
        area_mm2: approximate area of the tissue on the slide.
        mpp: um per level-0 pixel. The same seed gives the same tissue at every mpp.
        seed: seed of the tissue; every seed gives a different tissue.
        threads: number of blocks painted at a time; the files do not depend on it.
        side_um: side of a square glass; if None, the glass is just large enough for the tissue.
        partner: True to write also ``ihc.svs``, the same glass with lymphocytes stained brown, turned by 180 degrees.

    Returns:
        The number of true nuclei.

    Raises:
        ConfigError: ``area_mm2`` or ``mpp`` is out of range, or the tissue does not fit on the glass.
        OutputError: the folder cannot be written to.
    """
    _check(area_mm2, mpp)
    cv2.setNumThreads(1)
    blocks = Blocks(_on_glass(plan_tissue(area_mm2, seed), side_um), mpp)
    with complete_file(folder / "demo.svs") as partial:
        write_pyramid(partial, _painter(blocks), blocks.n, mpp, threads)
    if partner:
        with complete_file(folder / "ihc.svs") as partial:
            write_pyramid(partial, _painter_of_partner(blocks), blocks.n, mpp, threads)
    n_nuclei = write_truth(folder, blocks)
    columns = [("slide_id", "demo"), ("path", "demo.svs"), ("organ", "breast")]
    columns += [("partner", "ihc.svs")] if partner else []
    _write_text(folder / "slides.tsv", "".join("\t".join(line) + "\n" for line in zip(*columns, strict=True)))
    _write_text(
        folder / "config.yaml",
        yaml.safe_dump({"slides": str(folder / "slides.tsv"), "output": str(folder / "results")}),
    )
    return n_nuclei


def write_truth(folder: Path, blocks: Blocks) -> int:
    """Write the true nuclei, one row of blocks at a time, and return their number.

    The columns are ``x`` and ``y`` in level-0 px and ``class``; the Parquet file also has ``label`` and ``rays`` in um.
    """
    n_nuclei = 0
    with (
        complete_file(folder / "truth.csv") as csv_path,
        complete_file(folder / "truth.parquet") as parquet_path,
        pa.csv.CSVWriter(csv_path, SCHEMA_CSV) as csv,
        pa.parquet.ParquetWriter(parquet_path, SCHEMA, compression="zstd") as parquet,
    ):
        columns, rows = blocks.n
        for row in range(rows):
            windows = (blocks.window(column, row) for column in range(columns))
            nuclei = Nuclei.concatenate([true_nuclei(blocks.tissue, window) for window in windows])
            table = _to_table(nuclei)
            csv.write_table(table.select(SCHEMA_CSV.names))
            parquet.write_table(table)
            n_nuclei += len(nuclei)
    return n_nuclei


SCHEMA_CSV = pa.schema([("x", pa.float64()), ("y", pa.float64()), ("class", pa.string())])
SCHEMA = pa.schema([*SCHEMA_CSV, ("label", pa.int32()), ("rays", pa.list_(pa.float32(), TRUTH_RAYS))])


def _to_table(nuclei: Nuclei) -> pa.Table:
    rays = pa.FixedSizeListArray.from_arrays(pa.array(nuclei.rays.ravel()), TRUTH_RAYS)
    names = pa.array(np.array(CLASSES)[nuclei.label])
    return pa.table([*nuclei.xy.round(2).T, names, nuclei.label, rays], schema=SCHEMA)


def _painter(blocks: Blocks):
    """A function that paints a block; empty glass is painted only once, because camera noise repeats in every block."""
    glass = paint_block(blocks.tissue, Window(-1e3 * blocks.mpp * BLOCK_PX, 0, blocks.mpp, (BLOCK_PX, BLOCK_PX)))

    def paint(column: int, row: int) -> np.ndarray:
        window = blocks.window(column, row)
        return glass if is_blank(blocks.tissue, window) else paint_block(blocks.tissue, window)

    return paint


def _painter_of_partner(blocks: Blocks):
    """A function that paints a block of the partner, whose glass is turned by 180 degrees."""
    columns, rows = blocks.n

    def paint(column: int, row: int) -> np.ndarray:
        window = blocks.window(columns - 1 - column, rows - 1 - row)
        return np.ascontiguousarray(np.rot90(paint_block(blocks.tissue, window, LYMPHOCYTE), 2))

    return paint


def _on_glass(tissue: Tissue, side_um: float | None) -> Tissue:
    """The tissue on a square glass of side ``side_um``, or unchanged if that is None.

    Raises:
        ConfigError: the tissue does not fit on the glass.
    """
    if side_um is None:
        return tissue
    if side_um < (needed := max(tissue.layout.size_um)):
        raise ConfigError(f"a glass of {side_um:g} um is too small for this tissue, which needs {needed:,.0f} um")
    return replace(tissue, layout=replace(tissue.layout, size_um=(side_um, side_um)))


def _check(area_mm2: float, mpp: float) -> None:
    if not 0.05 <= area_mm2 <= 2000:
        raise ConfigError(f"--area-mm2 {area_mm2:g}: a demo slide has 0.05 to 2000 mm2 of tissue; choose within")
    # A block must be narrower than the period of the tissue; otherwise ``cells_in`` would miss repeated cells.
    if not 0.1 <= mpp <= 2.5:
        raise ConfigError(f"--mpp {mpp:g}: a demo slide has 0.1 to 2.5 um per pixel; choose within")


def _write_text(path: Path, text: str) -> None:
    with complete_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
