"""Write and read zarr 3 groups and arrays of uint8 without zarr, which takes longer to load than a small slide to read.

Files are identical to zarr's, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs import Zstd

from muse_pipeline.core.files import read_json

METADATA = "zarr.json"
SIDE_PX = 1024  # of the chunks of a plane
BYTES = {"name": "bytes"}


def zstd(level: int, checksum: bool) -> dict[str, Any]:
    """A codec of an array: Zstandard."""
    return {"name": "zstd", "configuration": {"level": level, "checksum": checksum}}


def in_shards(chunk_shape: Sequence[int], codecs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Codecs of an array whose files hold several chunks of ``chunk_shape`` each, with these ``codecs``."""
    little = {**BYTES, "configuration": {"endian": "little"}}
    sharded = {
        "chunk_shape": list(chunk_shape),
        "codecs": list(codecs),
        "index_codecs": [little, {"name": "crc32c"}],
        "index_location": "end",
    }
    return [{"name": "sharding_indexed", "configuration": sharded}]


def write_group(folder: Path, attributes: dict[str, Any]) -> None:
    """Write the metadata of a group."""
    _write_metadata(folder, {"attributes": attributes, "zarr_format": 3, "node_type": "group"})


def write_array(
    folder: Path,
    shape: Sequence[int],
    file_shape: Sequence[int],
    codecs: Sequence[dict[str, Any]],
    axes: Sequence[str],
    fill_value: int = 0,
) -> None:
    """Write the metadata of an array of uint8.

    Args:
        folder: folder of the array.
        shape: shape of the array.
        file_shape: shape of the part of the array that a file holds.
        codecs: codecs of a file.
        axes: names of the axes.
        fill_value: value of pixels without a file.
    """
    known = {
        "shape": list(shape),
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(file_shape)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill_value,
        "codecs": list(codecs),
        "attributes": {},
        "dimension_names": list(axes),
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }
    _write_metadata(folder, known)


def _write_metadata(folder: Path, known: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / METADATA).write_bytes(json.dumps(known, indent=2).encode())


def write_plane(folder: Path, pixels: np.ndarray) -> None:
    """Write an array (y, x) uint8 with its metadata; chunks of zeros have no file."""
    codec = {"level": 0, "checksum": False}
    write_array(folder, pixels.shape, (SIDE_PX, SIDE_PX), [BYTES, zstd(**codec)], ("y", "x"))
    for top in range(0, pixels.shape[0], SIDE_PX):
        for left in range(0, pixels.shape[1], SIDE_PX):
            part = pixels[top : top + SIDE_PX, left : left + SIDE_PX]
            if part.any():
                chunk = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
                chunk[: part.shape[0], : part.shape[1]] = part
                file = folder / f"c/{top // SIDE_PX}/{left // SIDE_PX}"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(Zstd(**codec).encode(chunk))


class Plane:
    """An array (y, x) uint8 that ``write_plane`` wrote, of which parts are read.

    Attributes:
        shape: (h, w) of the array.

    Raises:
        ValueError: the array has another layout.
    """

    def __init__(self, folder: Path):
        known = read_json(folder / METADATA)
        self.folder, self.shape = folder, tuple(known["shape"])
        side, names = known["chunk_grid"]["configuration"]["chunk_shape"], [each["name"] for each in known["codecs"]]
        if len(self.shape) != 2 or known["data_type"] != "uint8" or side != [SIDE_PX] * 2 or names != ["bytes", "zstd"]:
            raise ValueError(f"{folder.name} is {known['data_type']} of {self.shape} in chunks of {side} by {names}")

    def read(self, top: int = 0, left: int = 0, bottom: int | None = None, right: int | None = None) -> np.ndarray:
        """(h, w) uint8 of a box within the array, by default all of it.

        Raises:
            RuntimeError, ValueError: a file is damaged.
        """
        bottom, right = (self.shape[0] if bottom is None else bottom), (self.shape[1] if right is None else right)
        found = np.zeros((bottom - top, right - left), np.uint8)
        for row in range(top // SIDE_PX, -(-bottom // SIDE_PX)):
            for column in range(left // SIDE_PX, -(-right // SIDE_PX)):
                file, y, x = self.folder / f"c/{row}/{column}", row * SIDE_PX, column * SIDE_PX
                if file.is_file():
                    chunk = np.frombuffer(Zstd().decode(file.read_bytes()), np.uint8).reshape(SIDE_PX, SIDE_PX)
                    part = chunk[max(top - y, 0) : bottom - y, max(left - x, 0) : right - x]
                    first_y, first_x = max(y - top, 0), max(x - left, 0)
                    found[first_y : first_y + part.shape[0], first_x : first_x + part.shape[1]] = part
        return found
