"""Nuclei as lines of GeoJSON, a batch at a time.

Each piece of it is one matrix of bytes: every feature is a row, every part of it some columns, unused bytes are 0.
Deleting the zeros leaves the text. No nucleus is handled by itself.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from muse_pipeline.nuclei.arrow import to_numpy, wkb_to_rings
from muse_pipeline.nuclei.digits import render_coordinates, render_decimals, render_integers
from muse_pipeline.nuclei.feature_file import SEPARATOR
from muse_pipeline.nuclei.parquet import CLUSTER
from muse_pipeline.nuclei.uuid5 import uuid5

NAMESPACE = uuid.UUID("6a1c7f0e-52f4-5b0a-9d0e-2f6c1a3b8e47")
COLUMNS = ("x", "y", "label", "score", "area_um2", "eccentricity", "geometry")
# Name in QuPath, column of the table, digits after the point.
MEASUREMENTS = (
    ("Detection probability", "score", 3),
    ("Area um^2", "area_um2", 2),
    ("Eccentricity", "eccentricity", 3),
)
CLUSTER_MEASUREMENT = ("Morphology cluster", CLUSTER, 1)  # of tables that have the column
_CENTROID_DIGITS = 12
_AT_ONCE = 2_048  # nuclei whose matrix, of some 1,400 bytes each, stays near the processor


class FeatureRenderer:
    """Renders tables with ``COLUMNS``, and perhaps clusters, as features, joined by ``SEPARATOR``.

    Args:
        classes: name and color by label, as in the model card; other labels are written without classification.
        run: whatever names slide and model; the same run and centroid give the same id.
        offset_px: (x, y) subtracted from every position.
    """

    def __init__(self, classes: Sequence[Mapping[str, Any]], run: str, offset_px: tuple[int, int]):
        self._namespace = uuid.uuid5(NAMESPACE, run)
        self._offset_px = np.asarray(offset_px, float)
        self._classifications = np.array([_classification(entry) for entry in classes] + [b""])

    def render(self, table: pa.Table) -> bytes:
        """The features of one batch, one or more, in its order."""
        ids = uuid5(self._namespace, _centroid_names(to_numpy(table["x"]), to_numpy(table["y"])))
        pieces = [slice(first, first + _AT_ONCE) for first in range(0, len(table), _AT_ONCE)]
        return b"".join([self._render_piece(table[piece], ids[piece]) for piece in pieces])[len(SEPARATOR) :]

    def _render_piece(self, table: pa.Table, ids: np.ndarray) -> bytes:
        n = len(table)
        matrix = np.concatenate(
            [
                _constant(SEPARATOR + b'{"type":"Feature","id":"', n),
                ids,
                _constant(b'","geometry":{"type":"Polygon","coordinates":[[[', n),
                self._render_rings(table["geometry"]),
                _constant(b'},"properties":{"objectType":"detection"', n),
                self._render_classifications(to_numpy(table["label"])),
                _constant(b',"measurements":{', n),
                *_render_measurements(table),
                _constant(b"}}}", n),
            ],
            axis=1,
        )
        return matrix.tobytes().translate(None, b"\0")

    def _render_rings(self, geometry: pa.ChunkedArray) -> np.ndarray:
        texts = []
        for places, rings in wkb_to_rings(geometry):
            n, n_vertices, _ = rings.shape
            is_last = np.tile(np.arange(n_vertices) == n_vertices - 1, n)
            texts.append((places, render_coordinates(rings.reshape(-1, 2) - self._offset_px, is_last).reshape(n, -1)))
        matrix = np.zeros((len(geometry), max(text.shape[1] for _, text in texts)), np.uint8)
        for places, text in texts:
            matrix[places, : text.shape[1]] = text
        return matrix

    def _render_classifications(self, label: np.ndarray) -> np.ndarray:
        unknown = len(self._classifications) - 1
        text = self._classifications[np.where((label >= 0) & (label < unknown), label, unknown)]
        return text.view(np.uint8).reshape(len(label), -1)


def _classification(entry: Mapping[str, Any]) -> bytes:
    value = {"name": entry["name"], "color": list(entry["color"])}
    return b',"classification":' + json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _centroid_names(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Names (N, L) of absolute positions, to 0.01 px; equal ones in a batch are told apart by a running number."""
    hundredths = np.rint(np.stack([x, y]) * 100).astype(np.int64)
    place = hundredths[0] << 32 | hundredths[1]
    order = np.argsort(place, kind="stable")
    rank = np.arange(len(place))
    begins = np.diff(place[order], prepend=-1) != 0
    repeat = np.empty_like(rank)  # stitch leaves no two nuclei in one place: zeros
    repeat[order] = rank - np.maximum.accumulate(np.where(begins, rank, 0))
    columns = [render_integers(values, _CENTROID_DIGITS) for values in (*hundredths, repeat)]
    return np.concatenate(columns, axis=1)


def measurements_of(columns: Sequence[str]) -> tuple[tuple[str, str, int], ...]:
    """Name in QuPath, column and digits after the point of what a table with these columns gives."""
    return (*MEASUREMENTS, CLUSTER_MEASUREMENT) if CLUSTER in columns else MEASUREMENTS


def _render_measurements(table: pa.Table) -> list[np.ndarray]:
    """The finite ones; QuPath 0.4 breaks on NaN."""
    parts, is_first = [], np.ones(len(table), bool)
    for name, column, decimals in measurements_of(table.column_names):
        values = to_numpy(table[column])
        finite = np.isfinite(values)
        text = np.concatenate(
            [
                _constant(f',"{name}":'.encode(), len(table)),
                render_decimals(np.where(finite, values, 0), decimals),
            ],
            axis=1,
        )
        text[is_first, 0] = 0
        text[~finite] = 0
        is_first &= ~finite
        parts.append(text)
    return parts


def _constant(text: bytes, n: int) -> np.ndarray:
    return np.tile(np.frombuffer(text, np.uint8), (n, 1))
