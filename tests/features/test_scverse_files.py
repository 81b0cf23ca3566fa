"""``nuclei.h5ad``, ``slide.spatialdata.zarr`` and a cohort's table, read as their published formats
define.
"""

import json
import re
import shutil
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec

import geopandas
import nuclei_example
import numpy as np
import pandas
import pytest
import zarr
from nuclei_example import PROVENANCE, draw_nuclei, write_example

from muse_pipeline import read_cohort
from muse_pipeline.cli.main import main
from muse_pipeline.features.catalogue import FIRST_COLUMNS, features_of
from muse_pipeline.nuclei.parquet import read_provenance
from muse_pipeline.qupath.write import nucleus_ids

CLASSES = ("Lymphocyte", "Epithelial", "Stroma")
FEATURES = [each.name for each in (*FIRST_COLUMNS, *features_of("all", CLASSES))]


@pytest.fixture(scope="module")
def ids(table, table_file):
    xy = (table[name].to_numpy() for name in "xy")
    return nucleus_ids(read_provenance(table_file).run_name, *xy).astype(str)


def read_obs(group, as_text):
    """The columns of ``obs``, read as defined by AnnData's format for data frames."""
    columns = {}
    for name in group.attrs["column-order"]:
        element = group[name]
        if element.attrs["encoding-type"] == "categorical":
            names = as_text(element["categories"])
            columns[name] = [names[code] for code in element["codes"][:]]
        else:
            columns[name] = element[:]
    return columns


@pytest.fixture(scope="module")
def folder(table_file, tiled_slide, tmp_path_factory):
    """A slide's results with its store and its SpatialData folder."""
    folder = tmp_path_factory.mktemp("results") / "drawn"
    shutil.copytree(tiled_slide.folder / "image-500nm.zarr", folder / "image-500nm.zarr")
    shutil.copy(table_file, folder / "nuclei.parquet")
    store = str(folder / "image-500nm.zarr")
    words = ["step", "spatialdata", str(folder / "nuclei.parquet"), "--store", store]
    assert main([*words, "-o", str(folder / "slide.spatialdata.zarr")]) == 0
    return folder


def test_spatialdata_has_image_outlines_and_table_in_one_system(folder, table, ids, tiled_slide):
    root = zarr.open_group(folder / "slide.spatialdata.zarr", mode="r")
    image, outlines = root["images/slide"], root["shapes/nuclei"]
    assert image.attrs["ome"]["version"] == "0.5-dev-spatialdata"
    transform = image.attrs["ome"]["multiscales"][0]["coordinateTransformations"][0]
    assert (transform["scale"], transform["output"]["name"]) == ([1.0, 0.5, 0.5], "global")
    assert outlines.attrs["coordinateTransformations"][0]["scale"] == [0.25, 0.25]
    pixels = np.moveaxis(image["0"][:, 1000:1100, 1200:1300], 0, -1)
    np.testing.assert_array_equal(pixels, tiled_slide.store.read((1200, 1000), (100, 100)))
    shapes = geopandas.read_parquet(folder / "slide.spatialdata.zarr/shapes/nuclei/shapes.parquet")
    assert list(shapes.index) == list(ids) and (shapes.area > 0).all()
    frame = root["tables/table"]
    np.testing.assert_array_equal(frame["X"][:], table[FEATURES].to_numpy(np.float32))
    obs = read_obs(frame["obs"], lambda element: element[:])
    assert list(obs["instance_id"]) == list(ids) and set(obs["element"]) == {"nuclei"}
    assert frame.attrs["region"] == "nuclei" and set(obs["patient"]) == {"drawn"}


ODD = ("Immune cells", "Immune (T/B)", "T/B %", "Stroma [x]", "stroma (x)")
KEYS = ["prob_Immune_cells", "prob_Immune_T_B_", "prob_T_B_", "prob_Stroma_x_", "prob_stroma_x__2"]


@pytest.mark.parametrize("n_nuclei", [0, 20])
def test_names_and_slides_that_spatialdata_would_reject(
    n_nuclei, tiled_slide, tmp_path, monkeypatch
):
    """SpatialData accepts keys of letters, digits and "_.-" that differ in more than case, and
    rejects empty shapes.
    """
    monkeypatch.setattr(nuclei_example, "CLASSES", ODD)
    monkeypatch.setitem(
        PROVENANCE, "card", {"classes": [{"name": name, "color": [1, 2, 3]} for name in ODD]}
    )
    monkeypatch.setitem(PROVENANCE, "slide_mpp", [0.25, 0.25])
    nuclei = replace(draw_nuclei(n_nuclei), prob=np.full((n_nuclei, len(ODD)), 0.2))
    table = str(write_example(tmp_path / "nuclei.parquet", nuclei))
    output = tmp_path / "slide.spatialdata.zarr"
    store = str(tiled_slide.folder / "image-500nm.zarr")
    assert main(["step", "spatialdata", table, "--store", store, "-o", str(output)]) == 0
    root = zarr.open_group(output, mode="r")
    frame = root["tables/table"]
    for group in (frame["obs"], frame["var"], frame["obsm"], frame["uns"]):
        keys = [key.lower() for key in group if key != "_index"]
        assert len(keys) == len(set(keys)) and all(
            re.fullmatch(r"(?!__)[\w.-]+", key) for key in keys
        )
    obs = read_obs(frame["obs"], lambda element: element[:])
    assert [name for name in obs if name.startswith("prob_")] == KEYS
    assert all(len(values) == n_nuclei for values in obs.values())
    assert list(frame["obs/class/categories"][:]) == list(ODD)
    assert (
        ("shapes" in root)
        == (frame.attrs["region"] == "nuclei")
        == ("spatialdata_attrs" in frame["uns"])
        == (n_nuclei > 0)
    )
    if find_spec("spatialdata"):
        assert len(import_module("spatialdata").read_zarr(output)["table"]) == n_nuclei
    h5py = pytest.importorskip("h5py", reason="h5py, the extra `spatial`, is not installed")
    assert main(["step", "anndata", table, "-o", str(tmp_path / "nuclei.h5ad")]) == 0
    with h5py.File(tmp_path / "nuclei.h5ad") as file:
        assert [file["obs"][key].shape for key in KEYS] == [(n_nuclei,)] * len(KEYS)
    if find_spec("anndata"):
        found = import_module("anndata").read_h5ad(tmp_path / "nuclei.h5ad")
        assert list(found.obs.filter(like="prob_")) == KEYS


def test_a_folder_that_is_moved_with_its_store_keeps_its_image(folder, tiled_slide, tmp_path):
    shutil.copytree(folder, tmp_path / "elsewhere", symlinks=True)
    root = zarr.open_group(tmp_path / "elsewhere/slide.spatialdata.zarr", mode="r")
    image = root["images/slide/0"]
    assert image.shape[:0:-1] == tiled_slide.store.size_px
    assert image[:, 1000:1200, 1000:1200].min() < 200


def test_a_cohort_is_one_table_that_is_read_when_it_is_asked_for(
    folder, table, stitch, shard, tmp_path
):
    for name, features in (("TCGA-AA-0001-01Z", "all"), ("S2", "none")):
        (tmp_path / name).mkdir()
        stitch(tmp_path / name / "nuclei.parquet", [shard], "--features", features)
    (tmp_path / "sheet.json").write_text(json.dumps([{"slide_id": "S2", "patient": "P2"}]))
    cohort = read_cohort(tmp_path)
    found = cohort.to_table(columns=["slide_id", "patient", "class", "h_mean"]).to_pandas()
    assert found.groupby("slide_id")["patient"].agg(set).to_dict() == {
        "S2": {"P2"},
        "TCGA-AA-0001-01Z": {"TCGA-AA-0001"},
    }
    assert found.loc[found["slide_id"] == "S2", "h_mean"].isna().all()
    pandas.testing.assert_series_equal(
        found.loc[found["slide_id"] != "S2", "h_mean"].reset_index(drop=True), table["h_mean"]
    )
