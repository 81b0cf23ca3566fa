"""What the report reads of ``nuclei.parquet``: positions as a stream, medians of features, outlines of one field."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from muse_pipeline.features.catalogue import every_feature
from muse_pipeline.nuclei.arrow import to_numpy
from muse_pipeline.nuclei.parquet import QUALITY, ROW_GROUP, iterate_rows, open_nuclei, parse_outlines, read_within


def stream_positions(path: Path, *columns: str, sound_only: bool = False) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield xy (n, 2) float64 in level-0 px and each of ``columns`` (n,), in batches of bounded size.

    Args:
        path: the table.
        columns: of numbers.
        sound_only: leave out nuclei that are flagged in the column ``quality``.
    """
    for table in _stream(path, ["x", "y", *columns], sound_only):
        yield _positions(table), *(to_numpy(table[name]) for name in columns)


def _stream(path: Path, columns: Sequence[str], sound_only: bool) -> Iterator[pa.Table]:
    flags = [QUALITY] if sound_only else []
    for batch in iterate_rows(path, ROW_GROUP, [*columns, *flags]):
        yield batch.filter(batch[QUALITY].is_null()) if sound_only else batch


def median_features(path: Path, provenance: dict[str, Any]) -> dict[str, float]:
    """The median of every feature that the table has, over the nuclei that are not flagged.

    Args:
        path: the table.
        provenance: of it.
    """
    classes = [each["name"] for each in provenance["card"]["classes"]]
    with open_nuclei(path) as file:
        columns = file.schema_arrow.names
    names = [each.name for each in every_feature(classes) if each.name in columns]
    medians = {}
    for name in names:
        parts = [to_numpy(table[name]) for table in _stream(path, [name], "quality" in provenance)]
        values = np.concatenate(parts) if parts else np.zeros(0)
        if np.isfinite(values).any():
            medians[name] = float(f"{np.nanmedian(values):.5g}")
    return medians


def read_outlines(
    path: Path, low_xy: np.ndarray, high_xy: np.ndarray, column: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Nuclei whose centres lie in a rectangle of level-0 px; only row groups that touch it are read.

    Returns:
        geometry (n,) of shapely polygons in level-0 px, xy (n, 2), ``column`` (n,) int, whether flagged as lying in an
        artefact (n,) bool.
    """
    with open_nuclei(path) as file:
        quality = [QUALITY] if QUALITY in file.schema_arrow.names else []
    table = read_within(path, low_xy, high_xy, ["geometry", "x", "y", column, *quality])
    geometry = parse_outlines(np.array(table["geometry"].to_pylist(), object))
    flagged = np.array(table[QUALITY].is_valid()) if quality else np.zeros(len(table), bool)
    return geometry, _positions(table), to_numpy(table[column]).astype(int), flagged


def _positions(table: pa.Table) -> np.ndarray:
    return np.stack([to_numpy(table["x"]), to_numpy(table["y"])], 1)
