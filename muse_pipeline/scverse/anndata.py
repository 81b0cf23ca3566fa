"""Write ``nuclei.h5ad``, the nuclei of a slide as AnnData, batch by batch in bounded memory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from muse_pipeline.core.files import complete_file
from muse_pipeline.scverse.elements import Array, Batch, Elements, NucleiTable, class_colors, keys_of, open_hdf5


def write_anndata(nuclei: Path, output: Path, patient: str | None, embeddings: Path | None = None) -> None:
    """Write the nuclei of a slide as AnnData.

    Args:
        nuclei: path of ``nuclei.parquet``.
        output: path of ``nuclei.h5ad``.
        patient: patient of the slide; None takes the one in the slide's name.
        embeddings: file of the nuclei's embeddings, by ``muse embed``.

    Raises:
        MissingPackageError: h5py is not installed.
        NucleiError: the table is not by this package, or the embeddings are of other nuclei.
    """
    table = NucleiTable.open(nuclei, patient, embeddings)
    with complete_file(output) as partial, open_hdf5(partial) as elements:
        write_elements(elements, table, {})


def write_elements(elements: Elements, table: NucleiTable, more: Mapping[str, str]) -> None:
    """Write a table as the elements of AnnData.

    Args:
        elements: file of elements to write to.
        table: table of the nuclei.
        more: further columns of ``obs`` that have one value for all nuclei.
    """
    begin_anndata(elements)
    write_nuclei_elements(elements, table, more)
    columns = {name: [getattr(each, name) for each in table.features] for name in ("group", "unit", "text")}
    write_var(elements, [each.name for each in table.features], columns)


def write_var(elements: Elements, names: Sequence[str], columns: Mapping[str, Sequence[str]]) -> None:
    """Write ``var``: the names of the columns of ``X`` and what is known of them."""
    frame(elements, "var", columns)
    for name, values in {"_index": names, **columns}.items():
        elements.strings(f"var/{name}", values)


def write_nuclei_elements(elements: Elements, table: NucleiTable, more: Mapping[str, str], features: str = "X") -> None:
    """Write what describes the nuclei: ``obs``, ``obsm`` and ``uns``, and their features under a name of choice."""
    _write_rows(elements, table, more, features)
    _write_uns(elements, table)


def begin_anndata(elements: Elements) -> None:
    """Write the root of AnnData and its groups that may stay empty."""
    elements.group("", _encoding("anndata", "0.1.0"))
    for name in ("obsm", "layers", "obsp", "varm", "varp", "uns"):
        elements.group(name, _encoding("dict", "0.1.0"))


def _write_rows(elements: Elements, table: NucleiTable, more: Mapping[str, str], features: str) -> None:
    n = table.n_nuclei
    constants = {"patient": table.patient, "slide_id": table.slide_id, **more}
    keys = keys_of(table.numbers)
    frame(elements, "obs", [*table.categories, *constants, *keys.values()])
    for name, value in constants.items():
        categorical(elements, name, [value], n)[0:n] = np.zeros(n, np.int8)
    arrays: dict[str, Array] = {"ids": elements.ids("obs/_index", n)}
    arrays |= {f"codes {name}": categorical(elements, name, names, n) for name, names in table.categories.items()}
    arrays |= {f"number {name}": elements.array(f"obs/{key}", (n,), np.float32) for name, key in keys.items()}
    arrays["X"] = elements.array(features, (n, len(table.features)), np.float32)
    arrays |= {name: elements.array(f"obsm/{name}", (n, 2), float) for name in ("spatial", "spatial_px")}
    if table.embedding_dim:
        arrays["embedding"] = elements.array("obsm/X_embedding", (n, table.embedding_dim), np.float16)
    start = 0
    for batch in table.batches():
        rows = slice(start, start + len(batch.rows))
        for name, values in _values_of(batch).items():
            arrays[name][rows] = values
        start = rows.stop


def _values_of(batch: Batch) -> dict[str, np.ndarray]:
    table, xy = batch.table, batch.xy
    return {
        "ids": batch.ids,
        **{f"codes {name}": batch.codes(name) for name in table.categories},
        **{f"number {name}": batch.numbers(name) for name in table.numbers},
        "X": batch.values,
        "spatial": xy * table.um_per_px,
        "spatial_px": xy,
        **({"embedding": batch.embedding} if table.embedding_dim else {}),
    }


def categorical(elements: Elements, name: str, names: Sequence[str], n: int) -> Array:
    """Make a column of ``obs`` with these categories, to be filled with ``n`` codes, -1 for none."""
    elements.group(f"obs/{name}", {**_encoding("categorical", "0.2.0"), "ordered": False})
    elements.strings(f"obs/{name}/categories", names)
    return elements.array(f"obs/{name}/codes", (n,), np.min_scalar_type(-max(len(names), 1)))


def frame(elements: Elements, path: str, columns: Sequence[str] | Mapping[str, Any]) -> None:
    """Make a data frame with an index and these columns, to be written next."""
    attributes = {"_index": "_index", "column-order": list(columns)}
    elements.group(path, {**_encoding("dataframe", "0.2.0"), **attributes})


def _encoding(kind: str, version: str) -> dict[str, Any]:
    return {"encoding-type": kind, "encoding-version": version}


def _write_uns(elements: Elements, table: NucleiTable) -> None:
    elements.strings("uns/class_colors", class_colors(table.provenance))
    elements.scalar("uns/muse", json.dumps(table.provenance.to_dict(), sort_keys=True, ensure_ascii=False))
    path = "uns"
    for name in ("spatial", table.slide_id, "scalefactors"):
        path = f"{path}/{name}"
        elements.group(path, _encoding("dict", "0.1.0"))
    for name, value in zip(("um_per_px_x", "um_per_px_y"), table.um_per_px.tolist(), strict=True):
        elements.scalar(f"{path}/{name}", value)
