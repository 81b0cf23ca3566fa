"""Reading ``nuclei.parquet`` for the report: positions as a stream, medians of features, outlines of one field."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from muse_pipeline.features.catalogue import every_feature
from muse_pipeline.nuclei.arrow import to_numpy
from muse_pipeline.nuclei.parquet import (
    QUALITY,
    ROW_GROUP,
    iterate_counted,
    iterate_rows,
    left_out,
    open_nuclei,
    parse_outlines,
    read_provenance,
    read_within,
)


def stream_positions(path: Path, *columns: str, counted_only: bool = False) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield xy (n, 2) float64 in level-0 px and each of ``columns`` (n,), in batches of bounded size.

    Args:
        path: path of the table.
        columns: names of columns of numbers.
        counted_only: True to leave out the nuclei that are in no total.
    """
    names = ["x", "y", *columns]
    for table in iterate_counted(path, names) if counted_only else iterate_rows(path, ROW_GROUP, names):
        yield _positions(table), *(to_numpy(table[name]) for name in columns)


def median_features(path: Path, classes: Sequence[str]) -> dict[str, float]:
    """The median of every feature in the table, over the nuclei that are in totals.

    Args:
        path: path of the table.
        classes: names of the classes of the nuclei.
    """
    with open_nuclei(path) as file:
        columns = file.schema_arrow.names
    names = [each.name for each in every_feature(classes) if each.name in columns]
    medians = {}
    for name in names:
        parts = [to_numpy(table[name]) for table in iterate_counted(path, [name])]
        values = np.concatenate(parts) if parts else np.zeros(0)
        if np.isfinite(values).any():
            medians[name] = float(f"{np.nanmedian(values):.5g}")
    return medians


def read_outlines(
    path: Path, low_xy: np.ndarray, high_xy: np.ndarray, column: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Nuclei whose centres lie in a rectangle of level-0 px; only row groups that touch it are read.

    Returns:
        geometry (n,) of shapely polygons in level-0 px, xy (n, 2), ``column`` (n,) int, (n,) bool: True for nuclei
        that totals leave out.
    """
    provenance = read_provenance(path)
    quality = [QUALITY] if provenance.quality else []
    table = read_within(path, low_xy, high_xy, ["geometry", "x", "y", column, *quality])
    geometry = parse_outlines(np.array(table["geometry"].to_pylist(), object))
    return geometry, _positions(table), to_numpy(table[column]).astype(int), left_out(table, provenance)


def _positions(table: pa.Table) -> np.ndarray:
    return np.stack([to_numpy(table["x"]), to_numpy(table["y"])], 1)
