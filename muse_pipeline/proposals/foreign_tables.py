"""Tables of nucleus positions that others wrote: CSV with a header, HDF5 whose first two columns are x and y."""

from __future__ import annotations

import warnings
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from muse_pipeline.errors import ConfigError, LabelError
from muse_pipeline.wording import one_line

SCORE = "score"


def read_csv_points(path: Path, x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    """Positions (N, 2) from the columns ``x`` and ``y``, and scores (N,): of the column ``score``, else 1.

    Raises:
        LabelError: the file cannot be read, lacks a column, or a position is no number.
    """
    try:
        with warnings.catch_warnings(action="error", category=pd.errors.ParserWarning):  # cells beyond the header
            table = pd.read_csv(path, index_col=False)
    except (OSError, ValueError, EOFError, zlib.error, pd.errors.ParserWarning) as error:  # the third and fourth: gzip
        raise LabelError(f"{path}: cannot be read as CSV ({one_line(error)}); correct it") from error
    for column in (x, y):
        if column not in table:
            known = ", ".join(map(str, table.columns[:8]))
            raise LabelError(f"{path}: has no column '{column}' but {known}; name its columns with `x` and `y`")
    xy = table[[x, y]].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    score = pd.to_numeric(table[SCORE], errors="coerce").to_numpy(float) if SCORE in table else np.ones(len(xy))
    return _require_numbers(path, xy), score


def read_hdf5_points(path: Path, dataset: str) -> tuple[np.ndarray, np.ndarray]:
    """Positions (N, 2) from the first two columns of ``dataset``, and scores (N,) of 1.

    Raises:
        ConfigError: h5py is not installed.
        LabelError: the file cannot be read or has no such table.
    """
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ConfigError(f"{path}: HDF5 needs the package h5py; `pip install h5py`, or give CSV") from error
    try:
        with h5py.File(path) as file:
            table = np.asarray(file[dataset], float)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise LabelError(
            f"{path}: no table '{dataset}' can be read from it ({one_line(error)}); set `dataset`"
        ) from error
    if table.ndim != 2 or table.shape[1] < 2:
        raise LabelError(
            f"{path}: '{dataset}' is of shape {table.shape}; expected rows whose first columns are x and y"
        )
    return _require_numbers(path, table[:, :2]), np.ones(len(table))


def _require_numbers(path: Path, xy: np.ndarray) -> np.ndarray:
    broken = np.flatnonzero(~np.isfinite(xy).all(1))
    if len(broken):
        raise LabelError(f"{path}: row {broken[0] + 1} has no position; correct or delete it")
    return xy
