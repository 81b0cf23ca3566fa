"""What the report reads of ``nuclei.parquet``: positions as a stream, the outlines of one field, a checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from muse_pipeline.nuclei.parquet import ROW_GROUP, iterate_rows, parse_outlines


def checksum(path: Path) -> str:
    """A cheap checksum of the content: that of the Parquet footer, which holds provenance and every column's ranges."""
    with path.open("rb") as file:
        file.seek(-8, 2)
        length = int.from_bytes(file.read(4), "little")
        file.seek(-8 - length, 2)
        return hashlib.sha256(file.read()).hexdigest()[:32]


def stream_positions(path: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (xy (n, 2) float64 in level-0 px, label (n,)) until the file ends; memory is that of one batch."""
    for table in iterate_rows(path, ROW_GROUP, ["x", "y", "label"]):
        yield np.column_stack([table["x"], table["y"]]), table["label"].to_numpy()


def read_outlines(path: Path, low_xy: np.ndarray, high_xy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nuclei whose centres lie in a rectangle of level-0 px; only row groups that touch it are read.

    Returns:
        geometry (n,) of shapely polygons in level-0 px, xy (n, 2), label (n,).
    """
    inside = [("x", ">=", low_xy[0]), ("x", "<", high_xy[0]), ("y", ">=", low_xy[1]), ("y", "<", high_xy[1])]
    table = pq.read_table(
        path,
        columns=["geometry", "x", "y", "label"],
        filters=inside,
        use_threads=False,
        page_checksum_verification=True,
    )
    geometry = parse_outlines(table["geometry"].to_numpy())
    return geometry, np.column_stack([table["x"], table["y"]]).reshape(-1, 2), table["label"].to_numpy()
