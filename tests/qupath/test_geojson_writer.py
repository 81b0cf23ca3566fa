import gzip
import json
import uuid
from dataclasses import replace

import jsonschema
import nuclei_example
import numpy as np
import pyogrio
import pytest
import shapely
from nuclei_example import CLASSES, COLOURS, PROVENANCE, draw_nuclei, slide_info, write_example

from muse_pipeline.core.errors import GeoJSONError, NucleiError
from muse_pipeline.core.files import read_json
from muse_pipeline.nuclei.parquet import iterate_rows
from muse_pipeline.qupath.write import write_geojson

FEATURE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["type", "id", "geometry", "properties"],
    "properties": {
        "type": {"const": "Feature"},
        "id": {
            "type": "string",
            "pattern": "^[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$",
        },
        "geometry": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "type": {"const": "Polygon"},
                "coordinates": {"type": "array", "maxItems": 1},
            },
        },
        "properties": {
            "type": "object",
            "additionalProperties": False,
            "required": ["objectType", "measurements"],
            "properties": {
                "objectType": {"const": "detection"},
                "classification": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["name", "color"],
                    "properties": {
                        "name": {"enum": list(CLASSES)},
                        "color": {"enum": [list(c) for c in COLOURS]},
                    },
                },
                "measurements": {
                    "type": "object",
                    "maxProperties": 5,
                    "additionalProperties": {"type": "number"},
                },
            },
        },
    },
}


@pytest.fixture
def table(tmp_path):
    return write_example(tmp_path / "nuclei.parquet", draw_nuclei(1000))


def read_lines(path):
    """Check the layout of a file written by ``write_geojson``, and return its features."""
    text = gzip.decompress(path.read_bytes()).decode()
    head, *lines, tail, end = text.split("\n")
    assert (head, tail, end) == ('{"type":"FeatureCollection","features":[', "]}", "")
    assert all(line.endswith(",") for line in lines[:-1])
    return [json.loads(line.removesuffix(",")) for line in lines]


def write_and_read(nuclei, folder, **settings):
    """The features of a file with these nuclei."""
    table = write_example(folder / "nuclei.parquet", nuclei)
    write_geojson(table, slide_info(), folder / "nuclei.geojson.gz", **settings)
    return read_lines(folder / "nuclei.geojson.gz")


def test_every_line_is_a_strict_feature(tmp_path):
    nuclei = draw_nuclei(1000)
    features = write_and_read(nuclei, tmp_path)
    validator = jsonschema.Draft202012Validator(FEATURE)
    assert all(validator.is_valid(feature) for feature in features)
    assert len(features) == len({feature["id"] for feature in features}) == 1000
    names = [feature["properties"].get("classification", {}).get("name") for feature in features]
    assert names == [CLASSES[label] if label >= 0 else None for label in nuclei.label]
    probability = [
        feature["properties"]["measurements"]["Detection probability"] for feature in features
    ]
    assert np.allclose(probability, nuclei.score, atol=0.00051)


def test_gdal_reads_it_back(table, tmp_path):
    write_geojson(table, slide_info(), tmp_path / "nuclei.geojson.gz")
    frame = pyogrio.read_dataframe(f"/vsigzip/{tmp_path}/nuclei.geojson.gz")
    polygons = shapely.from_wkb(next(iterate_rows(table, 1000))["geometry"].to_numpy())
    assert len(frame) == 1000
    assert np.allclose(frame.total_bounds, shapely.total_bounds(polygons))
    assert frame.geometry.iloc[0].equals_exact(polygons[0], 1e-9)


def test_bounds_shift_exactly_and_ids_stay(table, tmp_path):
    info = slide_info(bounds=(137, 291, 30_000, 20_000))
    whole = write_geojson(table, info, tmp_path / "a.geojson.gz", frame="openslide")
    assert whole["offset_px"] == [0, 0] and whole["size_px"] == list(info.size_px)
    sidecar = write_geojson(table, info, tmp_path / "b.geojson.gz", frame="qupath")
    assert sidecar["offset_px"] == [137, 291]
    assert sidecar["size_px"] == [info.bounds.width, info.bounds.height]
    for absolute, shifted in zip(
        read_lines(tmp_path / "a.geojson.gz"), read_lines(tmp_path / "b.geojson.gz"), strict=True
    ):
        xy = np.array(absolute["geometry"]["coordinates"]) - np.array(
            shifted["geometry"]["coordinates"]
        )
        assert np.allclose(xy, [137, 291], atol=1e-9, rtol=0)
        assert absolute["id"] == shifted["id"] and absolute["properties"] == shifted["properties"]


def test_any_number_of_threads_writes_the_same_bytes(table, tmp_path, monkeypatch):
    monkeypatch.setattr("muse_pipeline.qupath.write.BATCH", 64)
    folders = [tmp_path / str(threads) for threads in (1, 2, 3)]
    for threads, folder in enumerate(folders, 1):
        write_geojson(
            table, slide_info(), folder / "nuclei.geojson.gz", max_features=300, threads=threads
        )
    first, *others = [
        {path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders
    ]
    assert len(first) == 6
    assert others == [first, first]


def test_parts_hold_the_whole(table, tmp_path, monkeypatch):
    monkeypatch.setattr("muse_pipeline.qupath.write.BATCH", 128)
    sidecar = write_geojson(table, slide_info(), tmp_path / "nuclei.geojson.gz", max_features=300)
    parts = [read_lines(tmp_path / name) for name in sidecar["parts"]]
    assert [len(part) for part in parts] == [300, 300, 300, 100]
    assert [feature for part in parts for feature in part] == read_lines(
        tmp_path / "nuclei.geojson.gz"
    )
    write_geojson(table, slide_info(), tmp_path / "nuclei.geojson.gz", max_features=500)
    assert len(list(tmp_path.glob("nuclei.part-*"))) == 2
    assert (
        write_geojson(table, slide_info(), tmp_path / "nuclei.geojson.gz", max_features=1000)[
            "parts"
        ]
        == []
    )
    assert list(tmp_path.glob("nuclei.part-*")) == []


def test_parts_of_other_names_stay(table, tmp_path):
    expected = tmp_path / "case21.part-001.geojson.gz"
    for stale in (expected, tmp_path / "case#1.part-002.geojson.gz"):
        stale.touch()
    write_geojson(table, slide_info(), tmp_path / "case#1.geojson.gz")
    assert list(tmp_path.glob("*.part-*")) == [expected]


def test_sidecar_states_where_it_came_from(table, tmp_path):
    sidecar = write_geojson(table, slide_info(bounds=(5, 6, 7, 8)), tmp_path / "nuclei.geojson.gz")
    assert read_json(tmp_path / "nuclei.provenance.json") == sidecar
    assert sidecar["frame"] == "qupath" and sidecar["slide_id"] == "slide-1"
    assert sidecar["slide_path"] == "slide-1.svs" and sidecar["size_px"] == [7, 8]
    assert sidecar["provenance"]["n_nuclei"] == 1000
    assert sidecar["provenance"]["model"] == PROVENANCE["model"]


def test_a_slide_without_nuclei(tmp_path):
    write_example(tmp_path / "nuclei.parquet", draw_nuclei(0))
    write_geojson(
        tmp_path / "nuclei.parquet", slide_info(), tmp_path / "nuclei.geojson.gz", max_features=10
    )
    assert json.loads(gzip.decompress((tmp_path / "nuclei.geojson.gz").read_bytes())) == {
        "type": "FeatureCollection",
        "features": [],
    }


def test_only_finite_measurements(tmp_path):
    nuclei = draw_nuclei(3)
    nuclei.score[:] = [np.nan, 0.5, np.inf]
    features = write_and_read(nuclei, tmp_path)
    counts = [len(feature["properties"]["measurements"]) for feature in features]
    assert counts == [2, 3, 2]


def test_ids_follow_from_slide_model_and_centroid(tmp_path):
    nuclei = draw_nuclei(4)
    nuclei.xy[:] = [[10, 20.004], [10, 20], [300, 400], [10, 20]]
    ids = [uuid.UUID(feature["id"]) for feature in write_and_read(nuclei, tmp_path)]
    assert len(set(ids)) == 4  # nuclei with equal centroids get different ids
    run = uuid.uuid5(uuid.UUID("6a1c7f0e-52f4-5b0a-9d0e-2f6c1a3b8e47"), f"slide-1|{'ab' * 32}")
    assert ids[2] == uuid.uuid5(run, f"{30_000:012d}{40_000:012d}{0:012d}")


def test_class_names_are_escaped(tmp_path, monkeypatch):
    classes = [{"name": 'Zelle "µ"\\', "color": [1, 2, 3]}]
    monkeypatch.setitem(PROVENANCE, "card", {"classes": classes})
    features = write_and_read(draw_nuclei(50), tmp_path)
    found = [feature["properties"].get("classification") for feature in features]
    assert found == [classes[0] if label == 0 else None for label in draw_nuclei(50).label]


def test_names_of_measurements_are_escaped(tmp_path, monkeypatch):
    monkeypatch.setattr(nuclei_example, "CLASSES", ('Zelle "µ"\\', "b", "c"))
    column = f"prob_{nuclei_example.CLASSES[0]}"
    for feature in write_and_read(draw_nuclei(3), tmp_path, measurements=[column]):
        assert column in feature["properties"]["measurements"]


def test_refusals(table, tmp_path):
    other = replace(slide_info(), fingerprint="another")
    with pytest.raises(NucleiError, match="while slide 'slide-1'"):
        write_geojson(table, other, tmp_path / "nuclei.geojson.gz")
    with pytest.raises(GeoJSONError, match="choose such a name"):
        write_geojson(table, slide_info(), tmp_path / "nuclei.zip")
    with pytest.raises(GeoJSONError, match="frame 'level0' is unknown"):
        write_geojson(table, slide_info(), tmp_path / "nuclei.geojson.gz", frame="level0")
    assert [path.name for path in tmp_path.iterdir()] == ["nuclei.parquet"]
