"""Nuclei expanded to cells: parts of a slide, damaged outlines, and the file for QuPath."""

import gzip
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from nuclei_example import slide_info
from qupath_check import check_geojson

from muse_pipeline.core.files import read_json
from muse_pipeline.core.types import Frame
from muse_pipeline.features.catalogue import CELL
from muse_pipeline.features.cells import find_cells
from muse_pipeline.nuclei.pairs import cut_apart
from muse_pipeline.nuclei.parquet import read_provenance
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.qupath.write import nucleus_ids, write_cells
from muse_pipeline.settings import RunSettings
from muse_pipeline.steps import Pixels, stitch
from muse_pipeline.tissue.mask import TissueMask

MPP = 0.25


def ellipses(a, b, turn):
    """(N, 32) rays of ellipses with half axes ``a`` and ``b``."""
    angle = np.arange(32) * np.pi / 16 - np.asarray(turn, float)[:, None]
    a, b = (np.asarray(each, float)[:, None] for each in (a, b))
    return (a * b / np.hypot(b * np.cos(angle), a * np.sin(angle))).astype(np.float32)


def crowd(n, side_um, seed=0):
    """Positions in um and rays of nuclei that touch but do not overlap."""
    random = np.random.default_rng(seed)
    xy = np.zeros((0, 2))
    for each in random.uniform(0, side_um, (4 * n, 2)):
        if len(xy) < n and (((xy - each) ** 2).sum(1) > 64).all():
            xy = np.concatenate([xy, each[None]])
    long, turn = random.uniform(3, 6, len(xy)), random.uniform(0, np.pi, len(xy))
    rays = ellipses(long, long * random.uniform(0.4, 1, len(xy)), turn)
    return xy + 300, cut_apart(xy, rays, xy[:0], rays[:0])


@pytest.mark.parametrize("side_um", [120, 400])
def test_the_cells_of_a_part_are_those_of_the_whole(side_um):
    xy, rays = crowd(150, side_um)
    nuclei = Nuclei(xy / MPP, Frame.LEVEL0, rays=rays)
    settings = (
        5.0,
        slide_info(),
        TissueMask(np.ones((1600, 1600), bool), np.array([8.0, 8.0]), None, 1.0).kept,
    )
    whole, own = find_cells(nuclei, nuclei[:0], *settings), xy[:, 0] < 340
    for part in (own, ~own):
        np.testing.assert_array_equal(
            find_cells(nuclei[part], nuclei[~part], *settings), whole[part]
        )


@pytest.fixture(scope="module")
def stitched(tiled_slide):
    """A function that stitches shards into a table with cells."""
    folder = tiled_slide.folder

    def run(shards, output, threads=1):
        pixels = Pixels(folder / "image-500nm.zarr", folder / "colour.json", "basic", expand_um=5)
        stitch(shards, folder / "slide.json", folder / "tissue.npz", output, threads, pixels=pixels)
        return output

    return run


@pytest.fixture(scope="module")
def table_file(stitched, shard, tmp_path_factory):
    return stitched([shard], tmp_path_factory.mktemp("cells") / "nuclei.parquet")


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
        shapely.from_geojson([json.dumps(each[key]) for each in features]) for key in _GEOMETRIES
    )
    assert shapely.covers(shapely.buffer(cells, 0.3), nuclei).all()
    um2 = table["cell_area_um2"].to_numpy()
    np.testing.assert_allclose(shapely.area(cells) * np.prod(tiled_slide.info.mpp), um2, rtol=0.02)
    assert {"cell_area_um2", "nucleus_cell_ratio", "cytoplasm_h_mean", "h_mean"} <= set(
        features[0]["properties"]["measurements"]
    )


_GEOMETRIES = "geometry", "nucleusGeometry"


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
    assert [
        number
        for number, pair in enumerate(zip(whole, collapsed, strict=True))
        if pair[0] != pair[1]
    ] == [5]


def test_settings_of_cells():
    assert RunSettings({"cells": True, "features": "none"}).cells == {"expand_um": 5}
    assert RunSettings({"cells": True, "features": "none"}).features == "basic"
    assert RunSettings({"cells": True, "features": "all"}).features == "all"
    words = f"{sys.executable} -m muse_pipeline.cli.main run --help".split()
    shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert "--cells" in shown and "--expand-um" in shown
