"""Write ``slide.spatialdata.zarr``: image, outlines and table of a slide; the coordinate system "global" is in um.

The image is the slide's own store: its arrays are linked, not copied, so both folders move together. SpatialData only
reads images of OME-Zarr version "0.5-dev-spatialdata"; their metadata is otherwise that of the store.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zarr

from muse_pipeline.core.environment import link_folder
from muse_pipeline.core.files import complete_file
from muse_pipeline.nuclei.arrow import bytes_to_arrow
from muse_pipeline.nuclei.parquet import open_nuclei
from muse_pipeline.scverse.anndata import write_elements
from muse_pipeline.scverse.elements import NucleiTable, ZarrElements
from muse_pipeline.store.store import PYRAMID, open_store

IMAGE, OUTLINES, TABLE = "slide", "nuclei", "table"
REGION_KEY, INSTANCE_KEY = "element", "instance_id"
OME_VERSION = "0.5-dev-spatialdata"
VERSION = {"version": "0.3"}  # of images and shapes


def write_spatialdata(
    nuclei: Path, store: Path, output: Path, patient: str | None, embeddings: Path | None = None
) -> None:
    """Write a slide for SpatialData.

    Args:
        nuclei: path of ``nuclei.parquet``.
        store: store of the slide's image; its position relative to ``output`` must not change.
        output: path of ``slide.spatialdata.zarr``.
        patient: patient of the slide; None takes the one in the slide's name.
        embeddings: file of the nuclei's embeddings, by ``muse embed``.

    Raises:
        NucleiError: the table is not by this package, or the embeddings are of other nuclei.
        StoreError: there is no such store.
    """
    table, image = NucleiTable.open(nuclei, patient, embeddings), open_store(store)
    with complete_file(output) as partial:
        root = zarr.create_group(partial, zarr_format=3)
        root.attrs["spatialdata_attrs"] = {"version": "0.2"}
        _link_image(root.create_group(f"images/{IMAGE}"), partial / "images" / IMAGE, image.path, output, image.mpp)
        if table.n_nuclei:  # SpatialData has no shapes without a row
            outlines = root.create_group(f"shapes/{OUTLINES}")
            to_um = _to_global(("x", "y"), table.um_per_px.tolist())
            outlines.attrs.update({"encoding-type": "ngff:shapes", "axes": ["x", "y"], "spatialdata_attrs": VERSION})
            outlines.attrs["coordinateTransformations"] = [to_um]
            _write_outlines(table, partial / "shapes" / OUTLINES / "shapes.parquet")
        _write_table(root.create_group(f"tables/{TABLE}"), table)


def _to_global(axes: tuple[str, ...], scale: list[float]) -> dict[str, Any]:
    space = {"type": "space", "unit": "unit"}  # the only unit of the library's own files
    described = [{"name": name, **({"type": "channel"} if name == "c" else space)} for name in axes]
    frames = {"input": "".join(axes), "output": "global"}
    systems = {side: {"name": name, "axes": described} for side, name in frames.items()}
    return {"type": "scale", "scale": scale, **systems}


def _link_image(group: zarr.Group, folder: Path, store: Path, output: Path, mpp: float) -> None:
    datasets = []
    for level, factor in enumerate(PYRAMID):
        target = os.path.relpath(store.resolve() / str(level), output.parent.resolve() / output.name / "images" / IMAGE)
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
    group.attrs["ome"] = {"version": OME_VERSION, "multiscales": [image], "omero": {"channels": channels}}
    group.attrs["spatialdata_attrs"] = VERSION


def _write_outlines(table: NucleiTable, path: Path) -> None:
    """Outlines in level-0 px as GeoParquet, indexed by the ids of the nuclei."""
    with open_nuclei(table.path) as file:
        geo = file.metadata.metadata[b"geo"]
    index = {"name": INSTANCE_KEY, "field_name": INSTANCE_KEY, "pandas_type": "unicode", "numpy_type": "object"}
    pandas = {"index_columns": [INSTANCE_KEY], "column_indexes": [], "columns": [{**index, "metadata": None}]}
    schema = pa.schema([("geometry", pa.binary()), (INSTANCE_KEY, pa.string())])
    schema = schema.with_metadata({b"geo": geo, b"pandas": json.dumps(pandas).encode()})
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in table.batches(geometry=True):
            ids = bytes_to_arrow(batch.ids.tolist(), pa.string())
            writer.write_table(pa.Table.from_arrays([batch.rows["geometry"].combine_chunks(), ids], schema=schema))


def _write_table(group: zarr.Group, table: NucleiTable) -> None:
    """Write the table, which describes the outlines; without nuclei it describes no element."""
    elements = ZarrElements(group)
    write_elements(elements, table, {REGION_KEY: OUTLINES})
    ids = elements.ids(f"obs/{INSTANCE_KEY}", table.n_nuclei)
    start = 0
    for batch in table.batches():
        ids[start : start + len(batch.rows)] = batch.ids
        start += len(batch.rows)
    order = [*group["obs"].attrs["column-order"], INSTANCE_KEY]
    elements.group("obs", {"column-order": order})
    keys = {"region": OUTLINES, "region_key": REGION_KEY, "instance_key": INSTANCE_KEY}
    described = keys if table.n_nuclei else dict.fromkeys(keys)
    elements.group("", {"spatialdata-encoding-type": "ngff:regions_table", "version": "0.2", **described})
    if table.n_nuclei:
        elements.group("uns/spatialdata_attrs", {"encoding-type": "dict", "encoding-version": "0.1.0"})
        for name, value in keys.items():
            elements.scalar(f"uns/spatialdata_attrs/{name}", value)
