"""Nuclei as a GeoDataFrame: read from a slide's table, and written to a file for QuPath."""

import gzip
import json

import geopandas
import numpy as np
import pandas
import pytest
import shapely
from nuclei_example import CLASSES, COLOURS, MPP, PROVENANCE, draw_nuclei, slide_info, write_example
from qupath_check import check_geojson

from muse_pipeline.core.errors import ArgumentError, NucleiError
from muse_pipeline.geodataframe import read_nuclei, write_geojson
from muse_pipeline.nuclei import parquet
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.qupath import write as geojson

BOUNDS = {"x": 300, "y": 170, "width": 49_000, "height": 49_000}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROVENANCE, "slide_mpp", list(MPP))
        patch.setitem(PROVENANCE, "bounds", BOUNDS)
        yield write_example(
            tmp_path_factory.mktemp("table") / "nuclei.parquet", draw_nuclei(20_000)
        )


@pytest.fixture(scope="module")
def read(table) -> geopandas.GeoDataFrame:
    return read_nuclei(table)


@pytest.fixture
def nuclei(read) -> geopandas.GeoDataFrame:
    """A copy of the table that was read, which a test may change."""
    return read.copy()


def read_features(path) -> list[dict]:
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return json.loads(text)["features"]


def test_rows_are_those_of_the_table(nuclei):
    drawn = draw_nuclei(20_000)
    np.testing.assert_array_equal(nuclei[["x", "y"]], drawn.xy)
    np.testing.assert_array_equal(nuclei[[f"prob_{name}" for name in CLASSES]], drawn.prob)
    np.testing.assert_array_equal(nuclei["class"].cat.codes, drawn.label)
    assert list(nuclei["class"].cat.categories) == list(CLASSES)
    assert nuclei["class"].isna().sum() == (drawn.label < 0).sum() > 0
    assert not {"label", "rays"} & set(nuclei)
    assert nuclei.crs is None
    np.testing.assert_allclose(nuclei.geometry.area * MPP[0] * MPP[1], nuclei.area_um2, rtol=0.02)
    assert {name: nuclei.attrs[name] for name in ("slide_id", "mpp", "model")} == {
        "slide_id": "slide-1",
        "mpp": list(MPP),
        "model": "drawn",
    }


def test_only_what_lies_in_a_box(table, nuclei):
    x, y = nuclei.x[7], nuclei.y[7]
    found = read_nuclei(table, (x, y, 9000.5, 12_000))
    inside = nuclei.x.between(x, x + 9000.5, "left") & nuclei.y.between(y, y + 12_000, "left")
    pandas.testing.assert_frame_equal(found, nuclei[inside].reset_index(drop=True))
    assert 7 in nuclei[inside].index
    assert len(read_nuclei(table, (60_000, 0, 10, 10))) == 0
    with pytest.raises(ArgumentError, match="height above 0"):
        read_nuclei(table, (0, 0, -5, 5))


def test_an_embedding_is_an_array_each(tmp_path, monkeypatch):
    monkeypatch.setitem(PROVENANCE, "slide_mpp", list(MPP))
    monkeypatch.setattr(parquet, "ROW_GROUP", 1000)
    drawn = draw_nuclei(1005)
    columns = {name: getattr(drawn, name) for name in ("rays", "label", "score", "prob")}
    embedding = np.random.default_rng(1).normal(size=(len(drawn), 6)).astype(np.float32)
    with_features = Nuclei(drawn.xy, drawn.frame, embedding=embedding, **columns)
    found = read_nuclei(write_example(tmp_path / "nuclei.parquet", with_features))
    np.testing.assert_array_equal(np.stack(found.embedding), embedding)


def test_what_is_no_table_of_nuclei_is_rejected(tmp_path, nuclei):
    nuclei.to_parquet(tmp_path / "own.parquet")
    assert geopandas.read_parquet(tmp_path / "own.parquet").attrs == nuclei.attrs
    for name, message in (
        ("none.parquet", "no such file"),
        ("own.parquet", "has no 'muse' metadata"),
    ):
        with pytest.raises(NucleiError, match=message):
            read_nuclei(tmp_path / name)


@pytest.mark.parametrize("frame, bounds", [("qupath", tuple(BOUNDS.values())), ("openslide", None)])
@pytest.mark.parametrize("suffix", [".geojson.gz", ".geojson"])
def test_a_file_is_byte_for_byte_that_of_the_pipeline(
    table, nuclei, tmp_path, frame, bounds, suffix
):
    written, of_pipeline = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    write_geojson(nuclei, written, frame)
    geojson.write_geojson(table, slide_info(bounds), of_pipeline, frame)
    assert written.read_bytes() == of_pipeline.read_bytes()


def test_rows_may_be_left_out_and_classes_changed(nuclei, tmp_path):
    few = nuclei[nuclei["class"] == "Tumour"].head(4).copy()
    few["class"] = ["Stroma", "Mitosis", "Tumour", None]
    few["geometry"] = few.geometry.buffer(2).simplify(0.1)
    write_geojson(few, tmp_path / "few.geojson")
    features = read_features(tmp_path / "few.geojson")
    classes = [feature["properties"].get("classification") for feature in features]
    assert classes == [
        {"name": "Stroma", "color": list(COLOURS[2])},
        {"name": "Mitosis", "color": [128, 128, 128]},
        {"name": "Tumour", "color": list(COLOURS[1])},
        None,
    ]
    outlines = [shapely.geometry.shape(feature["geometry"]) for feature in features]
    moved = shapely.transform(few.geometry.to_numpy(), lambda xy: xy - (BOUNDS["x"], BOUNDS["y"]))
    assert shapely.hausdorff_distance(outlines, moved).max() < 0.1
    assert check_geojson(tmp_path / "few.geojson").is_good


def test_nuclei_in_artefacts_and_unlike_their_region_are_flagged_for_qupath(nuclei, tmp_path):
    few = nuclei.head(4).assign(
        quality=["blurred", None, "fold", "blurred"], unlike_region=[True, False, False, True]
    )
    quality = {
        "mpp": 0.5,
        "cell_um": 16,
        "model_sha256": "ab",
        "area_mm2": {},
        "asked": [],
        "subtract": ["blurred"],
    }
    few.attrs = {**nuclei.attrs, "provenance": {**nuclei.attrs["provenance"], "quality": quality}}
    write_geojson(few, tmp_path / "few.geojson")
    measured = [
        each["properties"]["measurements"] for each in read_features(tmp_path / "few.geojson")
    ]
    assert [each["In artefact"] for each in measured] == [1, 0, 0, 1]
    assert [each["Unlike region"] for each in measured] == [1, 0, 0, 1]
    few.attrs = nuclei.attrs
    write_geojson(few, tmp_path / "own.geojson")
    assert "In artefact" not in (tmp_path / "own.geojson").read_text()


def test_no_nuclei_are_a_file_too(nuclei, tmp_path):
    write_geojson(nuclei[:0], tmp_path / "none.geojson.gz")
    assert read_features(tmp_path / "none.geojson.gz") == []


def with_geometry(nuclei, geometry):
    return nuclei.head(3).set_geometry([*nuclei.geometry[:2], geometry])


DAMAGE = {
    "column class, eccentricity is missing": lambda nuclei: nuclei.drop(
        columns=["eccentricity", "class"]
    ),
    "attrs has no 'provenance'": lambda nuclei: geopandas.GeoDataFrame(
        {name: nuclei[name] for name in nuclei}
    ),
    "geometry of row 2 is not a polygon without holes": lambda nuclei: with_geometry(
        nuclei, shapely.box(0, 0, 9, 9).difference(shapely.box(2, 2, 4, 4))
    ),
    "row 2 is not a polygon": lambda nuclei: with_geometry(nuclei, shapely.Point(3, 4)),
    "row 2 is not": lambda nuclei: with_geometry(nuclei, shapely.Polygon()),
    "of row 2": lambda nuclei: with_geometry(nuclei, None),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_what_cannot_be_written_is_rejected(nuclei, tmp_path, message):
    with pytest.raises(ArgumentError, match=message):
        write_geojson(DAMAGE[message](nuclei), tmp_path / "nuclei.geojson")
    assert not (tmp_path / "nuclei.geojson").exists()
