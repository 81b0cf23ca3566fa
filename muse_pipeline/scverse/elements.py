"""The elements of AnnData in HDF5 and in Zarr: groups and arrays that name their encoding.

https://anndata.readthedocs.io/en/stable/fileformat-prose.html
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from muse_pipeline.core.errors import MissingPackageError

CHUNK_ROWS = 65_536
ID_LENGTH = 36


class Array(Protocol):
    """An array to which rows are written."""

    attrs: Any

    def __setitem__(self, rows: slice, values: np.ndarray) -> None: ...


class Elements(Protocol):
    """A file of elements, addressed by their paths."""

    def group(self, path: str, attributes: dict[str, Any]) -> None:
        """Make a group; "" is the file itself."""

    def array(self, path: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """Make an array of numbers, to be filled."""

    def ids(self, path: str, n: int) -> Array:
        """Make an array of ``n`` ids, to be filled with (n,) bytes of ``ID_LENGTH``."""

    def strings(self, path: str, values: Sequence[str]) -> None:
        """Write strings."""

    def scalar(self, path: str, value: str | float) -> None:
        """Write a string or a number."""


def open_hdf5(path: Path) -> Hdf5Elements:
    """A new HDF5 file, to be used in a ``with`` block.

    Raises:
        MissingPackageError: h5py is not installed.
    """
    h5py = require_h5py()
    return Hdf5Elements(h5py.File(path, "w", libver="latest"), h5py.string_dtype())


def require_h5py() -> ModuleType:
    """The package h5py, which writes AnnData files.

    Raises:
        MissingPackageError: h5py is not installed.
    """
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            "AnnData files need the package 'h5py', which is not installed; install the extra `anndata`"
        ) from error
    return h5py


def keys_of(names: Sequence[str]) -> dict[str, str]:
    """Key of each name in a file: SpatialData allows letters, digits and "_.-"; keys must differ beyond case."""
    keys: dict[str, str] = {}
    for name in names:
        key, taken = re.sub(r"[^\w.-]+", "_", name), {known.lower() for known in keys.values()}
        possible = (f"{key}_{number}" if number > 1 else key for number in count(1))
        keys[name] = next(each for each in possible if each.lower() not in taken)
    return keys


class Hdf5Elements:
    """Elements in an HDF5 file."""

    def __init__(self, file: Any, text: Any):
        self._file, self._text = file, text

    def __enter__(self) -> Hdf5Elements:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def group(self, path: str, attributes: dict[str, Any]) -> None:
        """Make a group, as in ``Elements``."""
        attrs = (self._file.require_group(path) if path else self._file).attrs
        for name, value in attributes.items():
            if isinstance(value, list):
                attrs.create(name, value, dtype=self._text)
            else:
                attrs[name] = value

    def array(self, path: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """Make an array of numbers, as in ``Elements``."""
        return _encoded(self._file.create_dataset(path, shape, dtype), "array")

    def ids(self, path: str, n: int) -> Array:
        """Make an array of ids, as in ``Elements``; their fixed length is written a hundred times faster."""
        return _encoded(self._file.create_dataset(path, (n,), f"S{ID_LENGTH}"), "string-array")

    def strings(self, path: str, values: Sequence[str]) -> None:
        """Write strings, as in ``Elements``."""
        _encoded(self._file.create_dataset(path, data=list(values), dtype=self._text), "string-array")

    def scalar(self, path: str, value: str | float) -> None:
        """Write a string or a number, as in ``Elements``."""
        _encoded(self._file.create_dataset(path, data=value), _kind_of(value))


class ZarrElements:
    """Elements in a group of a Zarr folder of format 3."""

    def __init__(self, group: Any):
        self._group = group

    def group(self, path: str, attributes: dict[str, Any]) -> None:
        """Make a group, as in ``Elements``."""
        (self._group.require_group(path) if path else self._group).attrs.update(attributes)

    def array(self, path: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """Make an array of numbers, as in ``Elements``."""
        return _encoded(self._create(path, shape, np.dtype(dtype)), "array")

    def ids(self, path: str, n: int) -> Array:
        """Make an array of ids, as in ``Elements``."""
        return _ZarrIds(_encoded(self._create(path, (n,), "string"), "string-array"))

    def strings(self, path: str, values: Sequence[str]) -> None:
        """Write strings, as in ``Elements``."""
        array = self._create(path, (len(values),), "string")
        if len(values):
            array[:] = np.array(values, np.dtypes.StringDType())
        _encoded(array, "string-array")

    def scalar(self, path: str, value: str | float) -> None:
        """Write a string or a number, as in ``Elements``."""
        array = self._create(path, (), "string" if isinstance(value, str) else np.dtype(float))
        array[...] = np.array(value, np.dtypes.StringDType()) if isinstance(value, str) else value
        _encoded(array, _kind_of(value))

    def _create(self, path: str, shape: tuple[int, ...], dtype: Any) -> Any:
        chunks = (min(CHUNK_ROWS, max(shape[0], 1)), *shape[1:]) if shape else ()
        return self._group.create_array(path, shape=shape, chunks=chunks, dtype=dtype)


class _ZarrIds:
    """Rows of ids in an array of strings."""

    def __init__(self, array: Any):
        self._array, self.attrs = array, array.attrs

    def __setitem__(self, rows: slice, values: np.ndarray) -> None:
        self._array[rows] = values.astype(f"U{ID_LENGTH}").astype(np.dtypes.StringDType())


def _kind_of(value: str | float) -> str:
    return "string" if isinstance(value, str) else "numeric-scalar"


def _encoded(element: Any, kind: str) -> Any:
    element.attrs["encoding-type"], element.attrs["encoding-version"] = kind, "0.2.0"
    return element
