"""Columns of a table of nuclei in AnnData: those that are features, those that describe the nucleus, and its ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from muse_pipeline.cohort.patients import patient_in_name
from muse_pipeline.core.errors import NucleiError
from muse_pipeline.core.provenance import Provenance
from muse_pipeline.core.types import ARTEFACTS
from muse_pipeline.features.catalogue import Feature, every_feature
from muse_pipeline.nuclei.arrow import lists_to_numpy, to_numpy
from muse_pipeline.nuclei.parquet import (
    BORDER,
    QUALITY,
    REGION,
    REGION_PROB,
    iterate_rows,
    open_nuclei,
    read_provenance,
)
from muse_pipeline.qupath.write import nucleus_ids
from muse_pipeline.scverse.elements import CHUNK_ROWS, ID_LENGTH

DESCRIPTIONS = ("score", REGION_PROB, BORDER, "dab_od", "cluster")  # numbers of ``obs``, where the table has them


@dataclass(frozen=True)
class NucleiTable:
    """A table of nuclei and its columns in AnnData.

    Attributes:
        path: path of ``nuclei.parquet``.
        patient: patient of the slide.
        provenance: provenance of the table.
        features: columns of ``X``.
        categories: names by code of each categorical column of ``obs``.
        numbers: names of the other columns of ``obs``.
        embedding_dim: number of columns of ``obsm["X_embedding"]``.
        n_nuclei: number of rows.
        embeddings: file ``embeddings-<model>.parquet`` of the same nuclei; None for the table's own column, if any.
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
        """Open the table at ``path``; without a patient, the one in the slide's name is used.

        Raises:
            NucleiError: the table is not one of ours, or the embeddings are of other nuclei.
        """
        provenance = read_provenance(path)
        with open_nuclei(path) as file:
            schema, n_nuclei = file.schema_arrow, file.metadata.num_rows
        vectors = _embeddings_schema(embeddings, n_nuclei) if embeddings else schema
        classes = provenance.class_names
        categories = {"class": classes}
        if REGION in schema.names:
            categories[REGION] = [one.name for one in provenance.regions.classes or ()]
        if QUALITY in schema.names:
            categories[QUALITY] = list(ARTEFACTS)
        known = every_feature(classes)
        return cls(
            path=path,
            patient=patient or patient_in_name(provenance.slide_id),
            provenance=provenance,
            features=tuple(feature for feature in known if feature.name in schema.names),
            categories=categories,
            numbers=tuple(name for name in schema.names if name in DESCRIPTIONS or name.startswith("prob_")),
            embedding_dim=vectors.field("embedding").type.list_size if "embedding" in vectors.names else 0,
            n_nuclei=n_nuclei,
            embeddings=embeddings,
        )

    @property
    def slide_id(self) -> str:
        """Id of the slide."""
        return self.provenance.slide_id

    @property
    def um_per_px(self) -> np.ndarray:
        """(2,) um per level-0 px in x and y."""
        return np.asarray(self.provenance.slide_mpp, float)

    def batches(self, geometry: bool = False) -> Iterator[Batch]:
        """All nuclei, one chunk of the arrays at a time.

        Raises:
            NucleiError: the embeddings are of other nuclei.
        """
        columns = ["x", "y", *self.categories, *self.numbers, *(feature.name for feature in self.features)]
        columns += ["embedding"] if self.embedding_dim and not self.embeddings else []
        columns += ["geometry"] if geometry else []
        chunks = (Batch(self, rows) for rows in iterate_rows(self.path, CHUNK_ROWS, columns))
        if not self.embeddings:
            yield from chunks
            return
        vectors = iterate_rows(self.embeddings, CHUNK_ROWS, ["id", "embedding"])
        for batch, found in zip(chunks, vectors, strict=True):
            if found["id"].to_pylist() != batch.ids.astype(f"U{ID_LENGTH}").tolist():
                raise _other_nuclei(self.embeddings)
            yield Batch(self, batch.rows.append_column("embedding", found["embedding"]))


def _embeddings_schema(path: Path, n_nuclei: int) -> pa.Schema:
    with open_nuclei(path) as file:
        if "embedding" not in file.schema_arrow.names or file.metadata.num_rows != n_nuclei:
            raise _other_nuclei(path)
        return file.schema_arrow


def _other_nuclei(path: Path) -> NucleiError:
    return NucleiError(f"{path}: has no embeddings of the nuclei in this table; write them with `muse embed` again")


@dataclass(frozen=True)
class Batch:
    """Some rows of a table."""

    table: NucleiTable
    rows: pa.Table

    @property
    def xy(self) -> np.ndarray:
        """(N, 2) positions in level-0 px."""
        return np.stack([to_numpy(self.rows[name]) for name in ("x", "y")], 1)

    @property
    def ids(self) -> np.ndarray:
        """(N,) ids of QuPath's objects, 36 bytes each."""
        return nucleus_ids(self.table.provenance.run_name, *self.xy.T)

    @property
    def values(self) -> np.ndarray:
        """(N, F) float32 features; NaN if one is not defined."""
        return np.stack([to_numpy(self.rows[feature.name]) for feature in self.table.features], 1)

    def codes(self, name: str) -> np.ndarray:
        """(N,) int8 codes of a categorical column, -1 for none."""
        names = pa.array(self.table.categories[name], pa.string())
        return pc.fill_null(pc.index_in(self.rows[name].cast(pa.string()), names), -1).to_numpy().astype(np.int8)

    def numbers(self, name: str) -> np.ndarray:
        """(N,) values of another column of ``obs``."""
        return to_numpy(self.rows[name])

    @property
    def embedding(self) -> np.ndarray:
        """(N, D) embeddings: float32, or float16 from a file of embeddings."""
        return lists_to_numpy(self.rows["embedding"])


def class_colors(provenance: Provenance) -> Sequence[str]:
    """``#rrggbb`` of every class."""
    return ["#" + bytes(one.color).hex() for one in provenance.classes]
