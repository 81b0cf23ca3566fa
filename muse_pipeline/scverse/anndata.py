"""Write ``nuclei.h5ad``, the nuclei of a slide, and ``slide.spatialdata.zarr``, its image, outlines
and table.

AnnData is written batch by batch in bounded memory. SpatialData's coordinate system "global" is in
um. Its image links the arrays of the slide's store instead of copying them, so both folders must be
moved together. SpatialData only reads images of OME-Zarr version "0.5-dev-spatialdata"; apart from
that, their metadata is the same as in the store.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from muse_pipeline.core.environment import link_folder
from muse_pipeline.core.files import complete_file
from muse_pipeline.nuclei.arrow import bytes_to_arrow, to_numpy
from muse_pipeline.nuclei.parquet import open_nuclei
from muse_pipeline.scverse.elements import Elements, NucleiTable, class_colors, keys_of, open_hdf5
from muse_pipeline.store.store import PYRAMID, open_store

if TYPE_CHECKING:
    import zarr

IMAGE, OUTLINES, TABLE = "slide", "nuclei", "table"
REGION_KEY, INSTANCE_KEY = "element", "instance_id"
OME_VERSION = "0.5-dev-spatialdata"
VERSION = {"version": "0.3"}  # version of the elements "image" and "shapes"


def write_anndata(
    nuclei: Path, output: Path, patient: str | None, embeddings: Path | None = None
) -> None:
    """Write the nuclei of a slide as AnnData; the patient may be derived from the slide's name."""
    table = NucleiTable.open(nuclei, patient, embeddings)
    with complete_file(output) as partial, open_hdf5(partial) as elements:
        write_elements(elements, table, {})


def write_elements(elements: Elements, table: NucleiTable, more: Mapping[str, str]) -> None:
    """Write a table of nuclei as AnnData, with ``more`` columns of ``obs`` that have one value for
    all nuclei.
    """
    begin_anndata(elements)
    write_nuclei_elements(elements, table, more)
    columns = {
        name: [getattr(feature, name) for feature in table.features]
        for name in ("group", "unit", "text")
    }
    write_var(elements, [feature.name for feature in table.features], columns)


def write_var(
    elements: Elements, names: Sequence[str], columns: Mapping[str, Sequence[str]]
) -> None:
    """Write ``var``, which describes the columns of ``X``."""
    frame(elements, "var", columns)
    for name, values in {"_index": names, **columns}.items():
        elements.strings(f"var/{name}", values)


def write_nuclei_elements(
    elements: Elements, table: NucleiTable, more: Mapping[str, str], features: str = "X"
) -> None:
    """Write ``obs``, ``obsm`` and ``uns`` of the nuclei, and their features under the name
    ``features``.
    """
    _write_rows(elements, table, more, features)
    elements.strings("uns/class_colors", class_colors(table.provenance))
    elements.scalar(
        "uns/muse", json.dumps(table.provenance.to_dict(), sort_keys=True, ensure_ascii=False)
    )
    path = "uns"
    for name in ("spatial", table.slide_id, "scalefactors"):
        path = f"{path}/{name}"
        elements.group(path, _encoding("dict", "0.1.0"))
    for name, value in zip(("um_per_px_x", "um_per_px_y"), table.um_per_px.tolist(), strict=True):
        elements.scalar(f"{path}/{name}", value)


def begin_anndata(elements: Elements) -> None:
    """Write the root of AnnData and the groups that may remain empty."""
    elements.group("", _encoding("anndata", "0.1.0"))
    for name in ("obsm", "layers", "obsp", "varm", "varp", "uns"):
        elements.group(name, _encoding("dict", "0.1.0"))


def _write_rows(
    elements: Elements, table: NucleiTable, more: Mapping[str, str], features: str
) -> None:
    n = table.n_nuclei
    constants = {"patient": table.patient, "slide_id": table.slide_id, **more}
    keys = keys_of(table.numbers)
    frame(elements, "obs", [*table.categories, *constants, *keys.values()])
    for name, value in constants.items():
        categorical(elements, name, [value], n)[0:n] = np.zeros(n, np.int8)
    arrays = {"ids": elements.ids("obs/_index", n)}
    arrays |= {
        f"codes {name}": categorical(elements, name, names, n)
        for name, names in table.categories.items()
    }
    arrays |= {
        f"number {name}": elements.array(f"obs/{key}", (n,), np.float32)
        for name, key in keys.items()
    }
    arrays["X"] = elements.array(features, (n, len(table.features)), np.float32)
    arrays |= {
        name: elements.array(f"obsm/{name}", (n, 2), float) for name in ("spatial", "spatial_px")
    }
    if table.embedding_dim:
        arrays["embedding"] = elements.array(
            "obsm/X_embedding", (n, table.embedding_dim), np.float16
        )
    start = 0
    for batch in table.batches():
        rows, xy = slice(start, start + len(batch.rows)), batch.xy
        values = {
            "ids": elements.to_ids(batch.ids),
            **{f"codes {name}": batch.codes(name) for name in table.categories},
            **{f"number {name}": to_numpy(batch.rows[name]) for name in table.numbers},
            "X": batch.values,
            "spatial": xy * table.um_per_px,
            "spatial_px": xy,
            **({"embedding": batch.embedding} if table.embedding_dim else {}),
        }
        for name, array in arrays.items():
            array[rows] = values[name]
        start = rows.stop


def categorical(elements: Elements, name: str, names: Sequence[str], n: int) -> Any:
    """Create a categorical column in ``obs``; return its array of ``n`` codes to fill."""
    elements.group(f"obs/{name}", {**_encoding("categorical", "0.2.0"), "ordered": False})
    elements.strings(f"obs/{name}/categories", names)
    # A signed type, because -1 is the code for no category.
    return elements.array(f"obs/{name}/codes", (n,), np.min_scalar_type(-max(len(names), 1)))


def frame(elements: Elements, path: str, columns: Sequence[str] | Mapping[str, Any]) -> None:
    """Make a data frame with these columns and an index, which the caller has to write."""
    attributes = {"_index": "_index", "column-order": list(columns)}
    elements.group(path, {**_encoding("dataframe", "0.2.0"), **attributes})


def _encoding(kind: str, version: str) -> dict[str, Any]:
    return {"encoding-type": kind, "encoding-version": version}


def write_spatialdata(
    nuclei: Path, store: Path, output: Path, patient: str | None, embeddings: Path | None
) -> None:
    """Write a slide for SpatialData; the position of the ``store`` relative to ``output`` must not
    change.
    """
    import zarr  # imported here, because loading takes longer than writing an AnnData file

    table = NucleiTable.open(nuclei, patient, embeddings)
    image = open_store(store)
    # By default, zarr's thread pool has a size that suits the machine, not the job.
    with (
        complete_file(output) as partial,
        zarr.config.set({"async.concurrency": 1, "threading.max_workers": 1}),
    ):
        root = zarr.create_group(partial, zarr_format=3)
        root.attrs["spatialdata_attrs"] = {"version": "0.2"}
        group, folder = root.create_group(f"images/{IMAGE}"), partial / "images" / IMAGE
        _link_image(group, folder, image.path, output, image.mpp)
        if table.n_nuclei:  # SpatialData does not allow shapes without rows
            outlines = root.create_group(f"shapes/{OUTLINES}")
            to_um = _to_global(("x", "y"), table.um_per_px.tolist())
            outlines.attrs.update(
                {"encoding-type": "ngff:shapes", "axes": ["x", "y"], "spatialdata_attrs": VERSION}
            )
            outlines.attrs["coordinateTransformations"] = [to_um]
            _write_outlines(table, partial / "shapes" / OUTLINES / "shapes.parquet")
        _write_table(root.create_group(f"tables/{TABLE}"), table)


def _to_global(axes: tuple[str, ...], scale: list[float]) -> dict[str, Any]:
    space = {"type": "space", "unit": "unit"}  # the only unit in files that SpatialData writes
    described = [{"name": name, **({"type": "channel"} if name == "c" else space)} for name in axes]
    systems = {
        "input": {"name": "".join(axes), "axes": described},
        "output": {"name": "global", "axes": described},
    }
    return {"type": "scale", "scale": scale, **systems}


def _link_image(group: zarr.Group, folder: Path, store: Path, output: Path, mpp: float) -> None:
    datasets = []
    for level, factor in enumerate(PYRAMID):
        # Relative to the final folder, to which the folder being written is renamed.
        target = os.path.relpath(
            store.resolve() / str(level), output.parent.resolve() / output.name / "images" / IMAGE
        )
        link_folder(folder / str(level), target, store / str(level))
        scale = [{"type": "scale", "scale": [1.0, float(factor), float(factor)]}]
        datasets.append({"path": str(level), "coordinateTransformations": scale})
    axes = ("c", "y", "x")
    image = {
        "name": f"/images/{IMAGE}",
        "axes": [{"name": name, "type": "channel" if name == "c" else "space"} for name in axes],
        "datasets": datasets,
        "coordinateTransformations": [_to_global(axes, [1.0, mpp, mpp])],
    }
    channels = [{"label": name} for name in ("red", "green", "blue")]
    group.attrs["ome"] = {
        "version": OME_VERSION,
        "multiscales": [image],
        "omero": {"channels": channels},
    }
    group.attrs["spatialdata_attrs"] = VERSION


def _write_outlines(table: NucleiTable, path: Path) -> None:
    """Write outlines in level-0 px as GeoParquet, indexed by the ids of the nuclei."""
    with open_nuclei(table.path) as file:
        geo = file.metadata.metadata[b"geo"]
    # geopandas reads the index from pandas' metadata.
    index = {
        "name": INSTANCE_KEY,
        "field_name": INSTANCE_KEY,
        "pandas_type": "unicode",
        "numpy_type": "object",
        "metadata": None,
    }
    pandas = {"index_columns": [INSTANCE_KEY], "column_indexes": [], "columns": [index]}
    schema = pa.schema([("geometry", pa.binary()), (INSTANCE_KEY, pa.string())])
    schema = schema.with_metadata({b"geo": geo, b"pandas": json.dumps(pandas).encode()})
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in table.batches(geometry=True):
            ids = bytes_to_arrow(batch.ids.tolist(), pa.string())
            writer.write_table(
                pa.Table.from_arrays([batch.rows["geometry"].combine_chunks(), ids], schema=schema)
            )


def _write_table(group: zarr.Group, table: NucleiTable) -> None:
    """Write the table, which annotates the outlines; without nuclei, it annotates no element."""
    elements = Elements(group)
    write_elements(elements, table, {REGION_KEY: OUTLINES})
    elements.ids(f"obs/{INSTANCE_KEY}", table.n_nuclei)[:] = group["obs/_index"][:]
    order = [*group["obs"].attrs["column-order"], INSTANCE_KEY]
    elements.group("obs", {"column-order": order})
    keys = {"region": OUTLINES, "region_key": REGION_KEY, "instance_key": INSTANCE_KEY}
    described = keys if table.n_nuclei else dict.fromkeys(keys)
    elements.group(
        "", {"spatialdata-encoding-type": "ngff:regions_table", "version": "0.2", **described}
    )
    if table.n_nuclei:
        elements.group(
            "uns/spatialdata_attrs", {"encoding-type": "dict", "encoding-version": "0.1.0"}
        )
        for name, value in keys.items():
            elements.scalar(f"uns/spatialdata_attrs/{name}", value)
