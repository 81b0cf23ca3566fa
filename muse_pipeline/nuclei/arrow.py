"""Convert columns of numbers and outlines between NumPy and Arrow.

pyarrow's own conversions load pandas, which takes as long as stitching 5 mm2 of tissue.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import shapely
from numpy import ndarray

from muse_pipeline.core.errors import NucleiError

# little-endian, a polygon, one ring; the number of vertices follows
_WKB_START = b"\1\3\0\0\0\1\0\0\0"
_WKB_HEADER, _WKB_VERTEX = 13, 16  # bytes


def to_arrow(values: ndarray, valid: ndarray | None = None) -> pa.Array:
    """Convert numbers or bools (N,); they become null where ``valid`` (N,) is False."""
    bits = None if valid is None or valid.all() else _pack(valid)
    buffers = [
        bits,
        _pack(values) if values.dtype == bool else pa.py_buffer(np.ascontiguousarray(values)),
    ]
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), buffers)


def _pack(values: ndarray) -> pa.Buffer:
    return pa.py_buffer(np.packbits(values, bitorder="little"))


def bytes_to_arrow(values: Sequence[bytes], kind: pa.DataType) -> pa.Array:
    """Convert byte strings (N,) to an Arrow array of strings or binary values."""
    ends = np.cumsum([0, *map(len, values)], dtype=np.int32)
    return pa.Array.from_buffers(
        kind, len(values), [None, pa.py_buffer(ends), pa.py_buffer(b"".join(values))]
    )


def texts_to_arrow(texts: Sequence[str]) -> pa.Array:
    """Convert texts (N,) to an Arrow array of strings."""
    return bytes_to_arrow([text.encode() for text in texts], pa.string())


def to_numpy(column: pa.ChunkedArray) -> ndarray:
    """The numbers or bools (N,) of a column; nulls become NaN."""
    array = column.combine_chunks()
    if pa.types.is_boolean(array.type):
        bits = np.unpackbits(np.frombuffer(array.buffers()[1] or b"", np.uint8), bitorder="little")
        return bits[array.offset : array.offset + len(array)].astype(bool)
    return array.to_numpy(zero_copy_only=False) if array.null_count else np.from_dlpack(array)


def positions(table: pa.Table) -> ndarray:
    """Centres (n, 2) float64 in level-0 px of the nuclei in a table."""
    return np.stack([to_numpy(table["x"]), to_numpy(table["y"])], 1)


def lists_to_numpy(column: pa.ChunkedArray) -> ndarray:
    """The numbers (N, D) of a column of lists of equal length."""
    lists, width = column.combine_chunks(), column.type.list_size
    return np.from_dlpack(lists.values).reshape(-1, width)[lists.offset : lists.offset + len(lists)]


def polygons_to_wkb(polygons: ndarray) -> pa.Array:
    """Convert polygons (N,) to well-known binary; GEOS writes the same bytes, but blocks all
    threads meanwhile.

    Nothing is checked: the polygons must be two-dimensional, without holes and not empty.
    """
    n_vertices = shapely.get_num_coordinates(polygons)
    xy = shapely.get_coordinates(polygons).astype("<f8", copy=False)
    begins = np.cumsum(n_vertices) - n_vertices
    ends = np.cumsum([0, *(_WKB_HEADER + _WKB_VERTEX * n_vertices)], dtype=np.int32)
    content = np.empty(ends[-1], np.uint8)
    for n in np.unique(n_vertices).tolist():
        positions = np.flatnonzero(n_vertices == n)
        rows = np.empty((len(positions), _WKB_HEADER + _WKB_VERTEX * n), np.uint8)
        rows[:, :_WKB_HEADER] = np.frombuffer(_WKB_START + n.to_bytes(4, "little"), np.uint8)
        rows[:, _WKB_HEADER:] = (
            xy[begins[positions, None] + np.arange(n)].view(np.uint8).reshape(len(rows), -1)
        )
        # The sliding window at a polygon's offset is its bytes, so all polygons of equal length are
        # written at once.
        np.lib.stride_tricks.sliding_window_view(content, rows.shape[1], writeable=True)[
            ends[positions]
        ] = rows
    return pa.Array.from_buffers(
        pa.binary(), len(polygons), [None, pa.py_buffer(ends), pa.py_buffer(content)]
    )


def wkb_to_rings(column: pa.ChunkedArray) -> Iterator[tuple[ndarray, ndarray]]:
    """Read outlines in well-known binary, grouped by their number of vertices.

    Yields the indices (n,) of outlines in the column, and their vertices (n, V, 2), the last of
    which repeats the first.
    """
    array = column.combine_chunks()
    _, ends, text = array.buffers()
    ends = np.frombuffer(ends, np.int32)[array.offset : array.offset + len(array) + 1]
    text, sizes = np.frombuffer(text, np.uint8), np.diff(ends)
    for size in np.unique(sizes).tolist():
        positions = np.flatnonzero(sizes == size)
        n_vertices, rest = divmod(size - _WKB_HEADER, _WKB_VERTEX)
        _require(not rest and n_vertices > 3, f"{size} bytes")
        rows = np.lib.stride_tricks.sliding_window_view(text, size)[ends[positions]]
        start = _WKB_START + n_vertices.to_bytes(4, "little")
        _require(
            (rows[:, :_WKB_HEADER] == np.frombuffer(start, np.uint8)).all(),
            "no polygon of one ring",
        )
        rings = rows[:, _WKB_HEADER:].copy().view("<f8").reshape(len(rows), n_vertices, 2)
        _require(np.isfinite(rings).all() and (rings[:, 0] == rings[:, -1]).all(), "not closed")
        yield positions, rings


def _require(is_sound: bool, why: str) -> None:
    if not is_sound:
        raise NucleiError(
            f"an outline in the table of nuclei is damaged ({why}); make it with `muse step stitch`"
            " again"
        )
