"""A GeoJSON file of features, compressed or not, that is written batch by batch and appears when it is complete."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import imagecodecs

from muse_pipeline.core.errors import GeoJSONError
from muse_pipeline.core.files import complete_file

SEPARATOR = b",\n"
_HEAD = b'{"type":"FeatureCollection","features":['
_TAIL = b"\n]}\n"
_GZIP_LEVEL = 1  # of libdeflate: docs/results.md, "Writers"


class FeatureFile:
    """Writes batches of features, one feature a line; the file appears when the ``with`` block ends well.

    Raises:
        GeoJSONError: QuPath would not open a file of that name.
    """

    def __init__(self, path: Path):
        self._path, self._suffix = path, split_name(path)[1]

    def __enter__(self) -> FeatureFile:
        with ExitStack() as stack:
            partial = stack.enter_context(complete_file(self._path))
            self._file = stack.enter_context(partial.open("wb"))
            self._file.write(encode(_HEAD, self._suffix))
            self._before = encode(SEPARATOR[1:], self._suffix)
            stack.push(self._end)
            self._stack = stack.pop_all()
        return self

    def write(self, batch: bytes) -> None:
        """Append features that are joined by ``SEPARATOR`` and were passed through ``encode``."""
        self._file.write(self._before)
        self._file.write(batch)
        self._before = encode(SEPARATOR, self._suffix)

    def __exit__(self, *error: Any) -> bool | None:
        return self._stack.__exit__(*error)

    def _end(self, *error: Any) -> None:
        if error[0] is None:
            self._file.write(encode(_TAIL, self._suffix))


def encode(text: bytes, suffix: str) -> bytes:
    """The text as stored in a file with that suffix: unchanged, or as a gzip member without name and time."""
    if suffix == ".geojson":
        return text
    return imagecodecs.gzip_encode(text, _GZIP_LEVEL)


def split_name(path: Path) -> tuple[str, str]:
    """The name of a file before ``.geojson``, and the suffix from there on."""
    for suffix in (".geojson.gz", ".geojson"):
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix), suffix
    raise GeoJSONError(f"{path}: QuPath opens .geojson and .geojson.gz; choose such a name")
