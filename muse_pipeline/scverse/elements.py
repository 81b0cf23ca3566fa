"""The elements of AnnData in HDF5 and Zarr (groups and arrays that name their encoding), and the
columns of nuclei.

https://anndata.readthedocs.io/en/stable/fileformat-prose.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy import ndarray

from muse_pipeline.cohort.patients import patient_in_name
from muse_pipeline.core.errors import MissingPackageError, NucleiError
from muse_pipeline.core.provenance import Provenance
from muse_pipeline.core.types import ARTEFACTS
from muse_pipeline.features.catalogue import Feature, every_feature
from muse_pipeline.nuclei.arrow import lists_to_numpy, positions, texts_to_arrow, to_numpy
from muse_pipeline.nuclei.parquet import (
    BORDER,
    QUALITY,
    REGION,
    REGION_PROB,
    border_of,
    iterate_rows,
    open_nuclei,
    read_provenance,
)
from muse_pipeline.qupath.write import nucleus_ids

CHUNK_ROWS = 65_536
ID_LENGTH = 36


@contextmanager
def open_hdf5(path: Path) -> Iterator[Elements]:
    """Open a new HDF5 file."""
    h5py = require_h5py()
    with h5py.File(path, "w", libver="latest") as file:
        yield Elements(file, h5py.string_dtype())


def require_h5py() -> ModuleType:
    """Import h5py, which writes AnnData files."""
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            "AnnData files need the package 'h5py', which is not installed; install the extra"
            " `anndata`"
        ) from error
    return h5py


def keys_of(names: Sequence[str]) -> dict[str, str]:
    """A key in a file for each name: letters, digits and "_.-", as SpatialData requires, unique
    regardless of case.
    """
    keys = {}
    for name in names:
        key = re.sub(r"[^\w.-]+", "_", name)
        taken = {other.lower() for other in keys.values()}
        possible = (f"{key}_{number}" if number > 1 else key for number in count(1))
        keys[name] = next(candidate for candidate in possible if candidate.lower() not in taken)
    return keys


class Elements:
    """Elements in an HDF5 file, or in a Zarr group of format 3, addressed by their paths.

    Args:
        root: file or group.
        text: type of strings in HDF5; None for Zarr.
    """

    def __init__(self, root: Any, text: Any = None):
        self._root, self._text = root, text

    def group(self, path: str, attributes: dict[str, Any]) -> None:
        """Make a group; "" is the root."""
        (self._root.require_group(path) if path else self._root).attrs.update(attributes)

    def array(self, path: str, shape: tuple[int, ...], dtype: Any, kind: str = "array") -> Any:
        """Make an array, and return it for writing."""
        if self._text:
            return _encoded(self._root.create_dataset(path, shape, dtype), kind)
        chunks = min(CHUNK_ROWS, max(shape[0], 1)), *shape[1:]
        return _encoded(
            self._root.create_array(path, shape=shape, chunks=chunks, dtype=dtype), kind
        )

    def ids(self, path: str, n: int) -> Any:
        """Make an array for ``n`` results of ``to_ids``."""
        # In HDF5, strings of fixed length are written a hundred times faster.
        return self.array(path, (n,), f"S{ID_LENGTH}" if self._text else "string", "string-array")

    def to_ids(self, ids: ndarray) -> ndarray:
        """Ids (N,) of ``ID_LENGTH`` bytes each, in the type of an array of ``ids``."""
        return ids if self._text else ids.astype(f"U{ID_LENGTH}").astype(np.dtypes.StringDType())

    def strings(self, path: str, values: Sequence[str]) -> None:
        """Write strings."""
        array = self.array(path, (len(values),), self._text or "string", "string-array")
        if len(values):
            array[:] = np.array(values, object if self._text else np.dtypes.StringDType())

    def scalar(self, path: str, value: str | float) -> None:
        """Write a string or a number."""
        if self._text:
            element = self._root.create_dataset(path, data=value)
        else:
            kind = np.dtypes.StringDType() if isinstance(value, str) else float
            element = self._root.create_array(path, data=np.array(value, kind))
        _encoded(element, "string" if isinstance(value, str) else "numeric-scalar")


def _encoded(element: Any, kind: str) -> Any:
    element.attrs["encoding-type"], element.attrs["encoding-version"] = kind, "0.2.0"
    return element


# numeric columns of ``obs``, if the table has them
DESCRIPTIONS = ("score", REGION_PROB, BORDER, "dab_od", "cluster")


@dataclass(frozen=True)
class NucleiTable:
    """A table of nuclei and its columns in AnnData.

    Attributes:
        path: path of ``nuclei.parquet``.
        patient: patient of the slide.
        provenance: provenance of the table.
        features: columns of ``X``.
        categories: names, in the order of their codes, for each categorical column of ``obs``.
        numbers: names of the numeric columns of ``obs``.
        embedding_dim: number of columns of ``obsm["X_embedding"]``.
        n_nuclei: number of rows.
        embeddings: file ``embeddings-<model>.parquet`` of the same nuclei; None to use the table's
            own column, if any.
    """

    path: Path
    patient: str
    provenance: Provenance
    features: tuple[Feature, ...]
    categories: dict[str, list[str]]
    numbers: tuple[str, ...]
    embedding_dim: int
    n_nuclei: int
    embeddings: Path | None = None

    @classmethod
    def open(cls, path: Path, patient: str | None, embeddings: Path | None = None) -> NucleiTable:
        """Open the table at ``path``; without ``patient``, the patient is derived from the slide's
        name.
        """
        provenance = read_provenance(path)
        with open_nuclei(path) as file:
            schema, n_nuclei = file.schema_arrow, file.metadata.num_rows
        vectors = schema
        if embeddings:
            with open_nuclei(embeddings) as file:
                vectors = file.schema_arrow
                if "embedding" not in vectors.names or file.metadata.num_rows != n_nuclei:
                    raise _other_nuclei(embeddings)
        classes = provenance.class_names
        categories = {"class": classes}
        if REGION in schema.names:
            categories[REGION] = [one.name for one in provenance.regions.classes or ()]
        if QUALITY in schema.names:
            categories[QUALITY] = list(ARTEFACTS)
        features = every_feature(classes)
        return cls(
            path=path,
            patient=patient or patient_in_name(provenance.slide_id),
            provenance=provenance,
            features=tuple(feature for feature in features if feature.name in schema.names),
            categories=categories,
            numbers=tuple(
                name
                for name in schema.names
                if name in DESCRIPTIONS or name.startswith(("prob_", border_of("")))
            ),
            embedding_dim=(
                vectors.field("embedding").type.list_size if "embedding" in vectors.names else 0
            ),
            n_nuclei=n_nuclei,
            embeddings=embeddings,
        )

    @property
    def slide_id(self) -> str:
        """Id of the slide."""
        return self.provenance.slide_id

    @property
    def um_per_px(self) -> ndarray:
        """(2,) um per level-0 px in x and y."""
        return np.asarray(self.provenance.slide_mpp, float)

    def batches(self, geometry: bool = False) -> Iterator[Batch]:
        """Yield all nuclei in batches, each of which fills one chunk of the arrays."""
        columns = [
            "x",
            "y",
            *self.categories,
            *self.numbers,
            *(feature.name for feature in self.features),
        ]
        columns += ["embedding"] if self.embedding_dim and not self.embeddings else []
        columns += ["geometry"] if geometry else []
        chunks = (Batch(self, rows) for rows in iterate_rows(self.path, CHUNK_ROWS, columns))
        if not self.embeddings:
            yield from chunks
            return
        vectors = iterate_rows(self.embeddings, CHUNK_ROWS, ["id", "embedding"])
        for batch, embedded in zip(chunks, vectors, strict=True):
            if embedded["id"].to_pylist() != batch.ids.astype(f"U{ID_LENGTH}").tolist():
                raise _other_nuclei(self.embeddings)
            yield Batch(self, batch.rows.append_column("embedding", embedded["embedding"]))


def _other_nuclei(path: Path) -> NucleiError:
    return NucleiError(
        f"{path}: has no embeddings of the nuclei in this table; write them with `muse embed` again"
    )


@dataclass(frozen=True)
class Batch:
    """A batch of rows of a table."""

    table: NucleiTable
    rows: pa.Table

    @property
    def xy(self) -> ndarray:
        """(N, 2) positions in level-0 px."""
        return positions(self.rows)

    @property
    def ids(self) -> ndarray:
        """(N,) ids of QuPath's objects, 36 bytes each."""
        return nucleus_ids(self.table.provenance.run_name, *self.xy.T)

    @property
    def values(self) -> ndarray:
        """(N, F) float32 features; NaN if undefined."""
        return np.stack([to_numpy(self.rows[feature.name]) for feature in self.table.features], 1)

    def codes(self, name: str) -> ndarray:
        """(N,) int8 codes of a categorical column; -1 for no category."""
        names = texts_to_arrow(self.table.categories[name])
        return (
            pc.fill_null(pc.index_in(self.rows[name].cast(pa.string()), names), -1)
            .to_numpy()
            .astype(np.int8)
        )

    @property
    def embedding(self) -> ndarray:
        """(N, D) embeddings: float32, or float16 from a file of embeddings."""
        return lists_to_numpy(self.rows["embedding"])


def class_colors(provenance: Provenance) -> Sequence[str]:
    """``#rrggbb`` of every class."""
    return ["#" + bytes(one.color).hex() for one in provenance.classes]
