"""Vectors at spots: spatial transcriptomics, or any table with a position and numbers in each row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from scipy import sparse
from scipy.spatial import cKDTree

from muse_pipeline.core.errors import MissingPackageError, NucleiError
from muse_pipeline.core.text import one_line

if TYPE_CHECKING:
    import h5py

Spots = tuple[np.ndarray, tuple[str, ...], np.ndarray]  # (P, 2) positions, names of D columns, (P, D) float32


@dataclass(frozen=True, eq=False)
class SpotVectors:
    """A vector at each of P spots of an H&E image.

    Attributes:
        xy: (P, 2) image px.
        values: (P, D) float32, mapped from a file.
        names: names of the D columns.
        radius_px: largest distance of a position from the nearest spot, whose vector it gets.
    """

    xy: np.ndarray
    values: np.ndarray
    names: tuple[str, ...]
    radius_px: float

    @cached_property
    def _tree(self) -> cKDTree:
        return cKDTree(self.xy)

    def at(self, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vectors (M, D) of the spots nearest to positions (M, 2), else 0, and (M,) bool: True where a spot is near."""
        distance, nearest = self._tree.query(xy, distance_upper_bound=self.radius_px)
        known = np.isfinite(distance)
        found = np.zeros((len(xy), self.values.shape[1]), np.float32)
        found[known] = self.values[nearest[known]]
        return found, known


def read_spots(path: Path, columns: Sequence[str] = ()) -> Spots:
    """Read positions (P, 2), names of D columns and values (P, D) float32 of a CSV, Parquet or AnnData (.h5ad) file.

    Args:
        path: the file.
        columns: columns to read, in this order; all when empty.

    Raises:
        MissingPackageError: the file is .h5ad and h5py is not installed.
        NucleiError: the file cannot be read, a column is missing or holds no numbers, or a value is not finite.
    """
    if path.suffix.lower() == ".h5ad":
        return _read_h5ad(path, tuple(columns))
    return _read_table(path, tuple(columns))


def _read_table(path: Path, columns: tuple[str, ...]) -> Spots:
    try:
        table = pa.parquet.read_table(path) if path.suffix == ".parquet" else pa.csv.read_csv(path)
    except (pa.ArrowException, OSError) as error:
        raise NucleiError(f"{path}: not readable as CSV or Parquet ({one_line(error)[:200]}); correct it") from error
    names = columns or tuple(name for name in table.column_names if name not in ("x", "y"))
    _require_columns(path, ("x", "y", *names), table.column_names)
    if not names or not len(table):
        raise NucleiError(f"{path}: has {len(table)} rows and {len(names)} columns beside x and y; give at least one")
    wrong = [n for n in ("x", "y", *names) if not (pa.types.is_floating(t := table[n].type) or pa.types.is_integer(t))]
    if wrong:
        raise NucleiError(f"{path}: column '{wrong[0]}' holds no numbers; name the columns to use in `columns`")
    for name in ("x", "y", *names):
        n_finite = pc.sum(pc.fill_null(pc.is_finite(table[name]), False)).as_py() or 0
        _require_finite(path, name, n_finite, len(table))
    x, y, *values = (table[name].to_numpy() for name in ("x", "y", *names))
    return np.stack([x, y], 1).astype(float), names, np.stack(values, 1).astype(np.float32)


def _read_h5ad(path: Path, columns: tuple[str, ...]) -> Spots:
    """Read positions from ``obsm/spatial``, values from ``X``, dense or sparse, and names from ``var``."""
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise MissingPackageError(f"{path}: AnnData needs the package h5py; `pip install h5py`, or give CSV") from error
    try:
        with h5py.File(path) as file:
            xy = np.asarray(file["obsm/spatial"], float)[:, :2]
            known = file["var"][file["var"].attrs["_index"]].asstr()[:].tolist()
            names = columns or tuple(known)
            _require_columns(path, names, known)
            values = _read_matrix(file["X"], [known.index(name) for name in names])
    except (OSError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, NucleiError):
            raise
        raise NucleiError(
            f"{path}: not readable as AnnData with positions in obsm['spatial'] ({one_line(error)[:200]}); correct it"
        ) from error
    if not values.size or len(values) != len(xy):
        raise NucleiError(f"{path}: has {len(xy)} positions and X is {values.shape}; give a row per position")
    for name, column in zip(("obsm['spatial']", *names), (xy.sum(1), *values.T), strict=True):
        _require_finite(path, name, int(np.isfinite(column).sum()), len(column))
    return xy, names, values


def _read_matrix(stored: h5py.Dataset | h5py.Group, columns: list[int]) -> np.ndarray:
    """(P, D) float32 of the chosen columns."""
    if not hasattr(stored, "keys"):
        return stored[:][:, columns].astype(np.float32)
    kinds = {"csr_matrix": sparse.csr_matrix, "csc_matrix": sparse.csc_matrix}
    parts = tuple(stored[name][:] for name in ("data", "indices", "indptr"))
    matrix = kinds[stored.attrs["encoding-type"]](parts, shape=tuple(stored.attrs["shape"]))
    return matrix[:, columns].toarray().astype(np.float32)


def _require_columns(path: Path, wanted: Sequence[str], known: Sequence[str]) -> None:
    if missing := [name for name in wanted if name not in known]:
        raise NucleiError(f"{path}: has no column '{missing[0]}'; it has {', '.join(known[:20])}")


def _require_finite(path: Path, name: str, n_finite: int, n: int) -> None:
    if n_finite < n:
        raise NucleiError(
            f"{path}: {n - n_finite} of {n} values in column '{name}' are missing or not finite; fill them in or "
            "remove these rows"
        )
