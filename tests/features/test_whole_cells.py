"""Nuclei expanded to cells: parts of a slide, damaged outlines, and the file for QuPath."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from qupath_check import check_geojson

from muse_pipeline.core.files import read_json
from muse_pipeline.features.catalogue import CELL
from muse_pipeline.nuclei.parquet import read_provenance
from muse_pipeline.qupath.write import nucleus_ids, write_cells
from muse_pipeline.settings import RunSettings
from muse_pipeline.steps import Pixels, stitch


@pytest.fixture(scope="module")
def table_file(tiled_slide, shard, tmp_path_factory):
    """A table with cells."""
    folder, output = tiled_slide.folder, tmp_path_factory.mktemp("cells") / "nuclei.parquet"
    pixels = Pixels(folder / "image-500nm.zarr", folder / "colour.json", "basic", expand_um=5)
    stitch([shard], folder / "slide.json", folder / "tissue.npz", output, 1, pixels=pixels)
    return output


def test_qupath_imports_cells_with_their_nuclei(tiled_slide, table_file, tmp_path):
    output = tmp_path / "cells.geojson.gz"
    write_cells(
        table_file, tiled_slide.info, output, measurements=[*(each.name for each in CELL), "h_mean"]
    )
    verdict = check_geojson(output)
    assert verdict.is_good and verdict.n_by_type == {"cell": pq.read_metadata(table_file).num_rows}
    features = json.loads(gzip.decompress(output.read_bytes()))["features"]
    table, provenance = pq.read_table(table_file), read_provenance(table_file)
    xy = (table[name].to_numpy() for name in "xy")
    assert [each["id"].encode() for each in features] == nucleus_ids(
        provenance.run_name, *xy
    ).tolist()
    cells, nuclei = (
        shapely.from_geojson([json.dumps(each[key]) for each in features])
        for key in ("geometry", "nucleusGeometry")
    )
    assert shapely.covers(shapely.buffer(cells, 0.3), nuclei).all()
    um2 = table["cell_area_um2"].to_numpy()
    np.testing.assert_allclose(shapely.area(cells) * np.prod(tiled_slide.info.mpp), um2, rtol=0.02)
    measured = features[0]["properties"]["measurements"]
    assert {"cell_area_um2", "nucleus_cell_ratio", "cytoplasm_h_mean", "h_mean"} <= set(measured)


def test_a_cell_that_collapses_is_repaired_and_no_other_changes(tiled_slide, table_file, tmp_path):
    table, names = pq.read_table(table_file), ("whole.geojson", "collapsed.geojson")
    rays = np.stack(table["cell_rays"].to_numpy())
    rays[5] = 0.001
    column = pa.FixedSizeListArray.from_arrays(rays.ravel(), rays.shape[1])
    table = table.set_column(table.column_names.index("cell_rays"), "cell_rays", column)
    made_from = {b"muse": pq.read_metadata(table_file).metadata[b"muse"]}
    pq.write_table(table.replace_schema_metadata(made_from), tmp_path / "n.parquet")
    for path, name in zip((table_file, tmp_path / "n.parquet"), names, strict=True):
        write_cells(path, tiled_slide.info, tmp_path / name)
    assert check_geojson(tmp_path / names[1]).is_good
    whole, collapsed = (read_json(tmp_path / name)["features"] for name in names)
    assert whole.pop(5) != collapsed.pop(5) and whole == collapsed


def test_settings_of_cells():
    assert RunSettings({"cells": True, "features": "none"}).cells == {"expand_um": 5}
    assert RunSettings({"cells": True, "features": "none"}).features == "basic"
    assert RunSettings({"cells": True, "features": "all"}).features == "all"
