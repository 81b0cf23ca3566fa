"""The demo's folder: the slide, its true nuclei, and a sheet and a config with which the workflow runs on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import yaml

from muse_pipeline.core.errors import ConfigError
from muse_pipeline.core.files import complete_file
from muse_pipeline.demo.paint import is_blank, paint_block
from muse_pipeline.demo.pyramid import BLOCK_PX, disable_ipp, write_pyramid
from muse_pipeline.demo.stamps import CLASSES
from muse_pipeline.demo.texture import Window
from muse_pipeline.demo.tissue import TRUTH_RAYS, Tissue, plan_tissue, true_nuclei
from muse_pipeline.nuclei.table import Nuclei


@dataclass(frozen=True)
class Blocks:
    """The slide as a grid of blocks at one mpp."""

    tissue: Tissue
    mpp: float

    @property
    def n(self) -> tuple[int, int]:
        """(columns, rows)."""
        width, height = (int(np.ceil(side / (BLOCK_PX * self.mpp))) for side in self.tissue.layout.size_um)
        return width, height

    def window(self, column: int, row: int, n_columns: int = 1) -> Window:
        """One block, or ``n_columns`` of them side by side."""
        span = BLOCK_PX * self.mpp
        return Window(column * span, row * span, self.mpp, (n_columns * BLOCK_PX, BLOCK_PX))


def write_demo(
    folder: Path,
    area_mm2: float = 7.0,
    mpp: float = 0.25,
    seed: int = 0,
    threads: int = 1,
    side_um: float | None = None,
) -> int:
    """Write ``demo.svs``, ``truth.csv``, ``truth.parquet``, ``slides.tsv`` and ``config.yaml`` into ``folder``.

    Args:
        folder: made if need be.
        area_mm2: about how much tissue lies on the slide.
        mpp: size of a level-0 pixel in um. The same seed is the same tissue at every mpp.
        seed: another seed, another tissue.
        threads: how many blocks are painted at a time; the bytes do not depend on it.
        side_um: of a square glass; just large enough for the tissue when None.

    Returns:
        the number of true nuclei.

    Raises:
        ConfigError: area or mpp make no slide.
        OutputError: the folder cannot be written to.
    """
    _check(area_mm2, mpp)
    cv2.setNumThreads(1)
    disable_ipp()
    blocks = Blocks(_on_glass(plan_tissue(area_mm2, seed), side_um), mpp)
    with complete_file(folder / "demo.svs") as partial:
        write_pyramid(partial, _painter(blocks), blocks.n, mpp, threads)
    n_nuclei = write_truth(folder, blocks)
    _write_text(folder / "slides.tsv", "slide_id\tpath\ndemo\tdemo.svs\n")
    _write_text(
        folder / "config.yaml",
        yaml.safe_dump({"slides": str(folder / "slides.tsv"), "output": str(folder / "results")}),
    )
    return n_nuclei


def write_truth(folder: Path, blocks: Blocks) -> int:
    """Write the true nuclei, row of blocks by row of blocks; returns how many.

    Columns: ``x, y`` in level-0 px, ``class``; the Parquet file has ``label`` and ``rays`` (um, see ``Nuclei``) too.
    """
    n_nuclei = 0
    with (
        complete_file(folder / "truth.csv") as csv_path,
        complete_file(folder / "truth.parquet") as parquet_path,
        pa.csv.CSVWriter(csv_path, SCHEMA_CSV) as csv,
        pa.parquet.ParquetWriter(parquet_path, SCHEMA, compression="zstd") as parquet,
    ):
        for nuclei in _rows_of_nuclei(blocks):
            table = _to_table(nuclei)
            csv.write_table(table.select(SCHEMA_CSV.names))
            parquet.write_table(table)
            n_nuclei += len(nuclei)
    return n_nuclei


SCHEMA_CSV = pa.schema([("x", pa.float64()), ("y", pa.float64()), ("class", pa.string())])
SCHEMA = pa.schema([*SCHEMA_CSV, ("label", pa.int32()), ("rays", pa.list_(pa.float32(), TRUTH_RAYS))])


def _rows_of_nuclei(blocks: Blocks) -> Iterator[Nuclei]:
    columns, rows = blocks.n
    for row in range(rows):
        parts = [true_nuclei(blocks.tissue, blocks.window(column, row)) for column in range(columns)]
        yield Nuclei.concatenate(parts)


def _to_table(nuclei: Nuclei) -> pa.Table:
    rays = pa.FixedSizeListArray.from_arrays(pa.array(nuclei.rays.ravel()), TRUTH_RAYS)
    names = pa.array(np.array(CLASSES)[nuclei.label])
    return pa.table([*nuclei.xy.round(2).T, names, nuclei.label, rays], schema=SCHEMA)


def _painter(blocks: Blocks):
    """Paint a block; one that shows nothing but glass is painted once, since the camera's noise repeats with it."""
    glass = paint_block(blocks.tissue, Window(-1e3 * blocks.mpp * BLOCK_PX, 0, blocks.mpp, (BLOCK_PX, BLOCK_PX)))

    def paint(column: int, row: int) -> np.ndarray:
        window = blocks.window(column, row)
        return glass if is_blank(blocks.tissue, window) else paint_block(blocks.tissue, window)

    return paint


def _on_glass(tissue: Tissue, side_um: float | None) -> Tissue:
    """The same tissue on a glass of another size.

    Raises:
        ConfigError: it does not fit.
    """
    if side_um is None:
        return tissue
    if side_um < (needed := max(tissue.layout.size_um)):
        raise ConfigError(f"a glass of {side_um:g} um is too small for this tissue; it needs {needed:,.0f}")
    return replace(tissue, layout=replace(tissue.layout, size_um=(side_um, side_um)))


def _check(area_mm2: float, mpp: float) -> None:
    if not 0.05 <= area_mm2 <= 2000:
        raise ConfigError(f"--area-mm2 {area_mm2:g}: a drawn slide has 0.05 to 2000 mm2 of tissue; choose within")
    if not 0.1 <= mpp <= 4:
        raise ConfigError(f"--mpp {mpp:g}: a drawn slide has 0.1 to 4 um per pixel; choose within")


def _write_text(path: Path, text: str) -> None:
    with complete_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
