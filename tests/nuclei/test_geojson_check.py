"""The rows of the contract: what QuPath's own importer was seen to do, and six styles of peers that lose data."""

import gzip
import json

import pytest
from nuclei_example import draw_nuclei, slide_info, write_example

from muse_pipeline.cli.main import main
from muse_pipeline.errors import GeoJSONError
from muse_pipeline.nuclei.geojson import write_geojson
from muse_pipeline.nuclei.geojson_check import check_geojson

ID = "2aa7e31c-8437-499d-ba61-88aacd9a2c3f"
CLASS = {"name": "Tumour", "color": [200, 0, 0]}


def square(x=0, y=0, side=10):
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]


def feature(ring=None, **changes):
    """One good feature; ``changes`` replace keys of the feature or, where it has no such key, of its properties."""
    properties = {"objectType": "detection", "classification": CLASS, "measurements": {"Area um^2": 25.0}}
    item = {"type": "Feature", "id": ID, "geometry": {"type": "Polygon", "coordinates": [ring or square()]}}
    item |= {key: value for key, value in changes.items() if key in item}
    item["properties"] = properties | {key: value for key, value in changes.items() if key not in item}
    return item


def write(path, *features, text=None):
    path.write_text(text or json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def test_our_own_file_is_good(tmp_path):
    table = write_example(tmp_path / "nuclei.parquet", draw_nuclei(1000))
    write_geojson(table, slide_info(), tmp_path / "nuclei.geojson.gz", max_features=600)
    verdict = check_geojson(tmp_path / "nuclei.geojson.gz")
    assert str(verdict).endswith("nuclei.geojson.gz: good: QuPath 0.4 to 0.7 imports 1,000 detections")
    assert check_geojson(tmp_path / "nuclei.part-002.geojson.gz").n_by_type == {"detection": 400}


def test_imported_as_meant(tmp_path):
    for text in (
        json.dumps({"type": "FeatureCollection", "features": [feature()]}),
        json.dumps([feature()]),
        json.dumps(feature()),
        json.dumps([feature(classification="Tumour")]),
        json.dumps([feature(measurements=[{"name": "Area um^2", "value": 25.0}])]),
        json.dumps([feature(classification={"names": ["Tumour", "Positive"], "color": [1, 2, 3]})]),
        json.dumps([feature(type="anything")]),
    ):
        verdict = check_geojson(write(tmp_path / "a.geojson", text=text))
        assert verdict.is_good, str(verdict)
        assert verdict.n_by_type == {"detection": 1}
    assert check_geojson(write(tmp_path / "a.geojson")).is_good
    members = [gzip.compress(part.encode()) for part in ("[", json.dumps(feature()), "]")]
    (tmp_path / "a.geojson.gz").write_bytes(b"".join(members))
    assert check_geojson(tmp_path / "a.geojson.gz").is_good


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (feature(classification={"name": "Tumour"}), "classification has no color"),
        (feature(classification={"name": "Tumour", "colorRGB": -3}), "classification has no color"),
        (feature(classification={"name": " ", "color": [1, 2, 3]}), "classification has no name"),
        (feature(square()[:-1]), "a ring is not closed"),
        (
            feature(geometry={"type": "Polygon", "coordinates": [[["a", 1], [2, 3], [3, 4], ["a", 1]]]}),
            "the geometry cannot be read",
        ),
        (feature(geometry={"type": "Polygon", "coordinates": None}), "the geometry cannot be read"),
        (7, "a feature is not an object"),
    ],
)
def test_whole_file_refused(tmp_path, item, reason):
    verdict = check_geojson(write(tmp_path / "a.geojson", feature(), item))
    assert list(verdict.refused_by()) == ["0.4", "0.5", "0.6", "0.7"]
    assert f"QuPath 0.4 to 0.7 refuses the whole file (feature 2: {reason}" in str(verdict)


def test_refused_since_qupath_snaps(tmp_path):
    bow_tie = [[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]
    verdict = check_geojson(write(tmp_path / "a.geojson", feature(), feature(bow_tie, id=ID[::-1].replace("-", "0"))))
    assert list(verdict.refused_by()) == ["0.6", "0.7"]
    verdict = check_geojson(write(tmp_path / "a.geojson", feature(bow_tie)))
    assert str(verdict).endswith(
        "bad: QuPath 0.6 to 0.7 refuses the whole file (feature 1: invalid geometry (self-intersection)); "
        "QuPath 0.4 to 0.5 imports 1 detection"
    )


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_break_qupath_04(tmp_path, number):
    text = json.dumps([feature()]).replace("25.0", number)
    verdict = check_geojson(write(tmp_path / "a.geojson", text=text))
    assert list(verdict.refused_by()) == ["0.4"]


@pytest.mark.parametrize(
    ("item", "reason", "becomes"),
    [
        (feature(objectType=None), "becomes an annotation, as objectType is missing", "annotation"),
        (feature(objectType="nucleus"), "becomes an annotation, as objectType 'nucleus' is unknown", "annotation"),
        (
            feature() | {"properties": {}, "objectType": "detection"},
            "objectType stands outside properties",
            "annotation",
        ),
        (
            feature(objectType=None) | {"properties": {"type": "cell"}},
            "becomes a cell, as objectType is missing",
            "cell",
        ),
        (feature(objectType="tile"), "is a tile, not a nucleus", "tile"),
        ({"type": "Point", "coordinates": [1, 2]}, "geometry without a feature", "annotation"),
        (feature(id="object_3"), "loses its id", "detection"),
        (feature([[0, 0], [5, 5], [0, 0]]), "nothing is left of it", "detection"),
        (feature([[0, 0], [9, 0], [9, 0.004], [0, 0]]), "nothing is left of it", "detection"),
        (feature(geometry=None), "has no geometry", "detection"),
        (feature(measurements={"Area": "large"}), "a measurement is not a number", "detection"),
        (feature(classification={"name": "A", "color": [0.5, 1, 300]}), "color is not", "detection"),
    ],
)
def test_imported_with_damage(tmp_path, item, reason, becomes):
    verdict = check_geojson(write(tmp_path / "a.geojson", text=json.dumps([item])))
    assert not verdict.is_good and not verdict.refused_by()
    assert reason in str(verdict)
    assert verdict.n_by_type == {becomes: 1}


def test_ids_used_twice(tmp_path):
    items = [feature(square(x), id=ID if x % 2 else f"{x:08d}{ID[8:]}") for x in range(6)]
    verdict = check_geojson(write(tmp_path / "a.geojson", *items))
    assert "feature 4 and 1 more: has the id of another feature" in str(verdict)
    without = [{key: value for key, value in feature().items() if key != "id"} for _ in range(3)]
    assert check_geojson(write(tmp_path / "a.geojson", *without)).is_good


def test_names_and_text_that_qupath_does_not_read(tmp_path):
    assert "ends in none of" in str(check_geojson(write(tmp_path / "a.zip", feature())))
    assert "not JSON" in str(check_geojson(write(tmp_path / "a.geojson", text="{")))
    assert "nested too deeply" in str(check_geojson(write(tmp_path / "a.geojson", text="[" * 100_000)))
    (tmp_path / "a.geojson").write_bytes("[]".encode("utf-16"))
    assert "not JSON" in str(check_geojson(tmp_path / "a.geojson"))
    odd = feature(geometry={"type": ["Polygon"], "coordinates": [square()]})
    assert "has no geometry" in str(check_geojson(write(tmp_path / "a.geojson", odd)))
    with pytest.raises(GeoJSONError, match="no such file"):
        check_geojson(tmp_path / "none.geojson")


# Six styles of other tools, rebuilt from their descriptions.
PEERS = {
    "objectType outside properties, class name as type": (
        json.dumps(
            {
                "type": "FeatureCollection",
                "features": [
                    {
                        "type": "Feature",
                        "id": f"object_{n}",
                        "objectType": "detection",
                        "name": "nucleus",
                        "geometry": {"type": "Polygon", "coordinates": [square(20 * n)]},
                        "properties": {"type": "Neoplastic", "classification": CLASS},
                    }
                    for n in range(3)
                ],
            }
        ),
        "becomes an annotation, as objectType stands outside properties and properties.type 'Neoplastic' is read",
    ),
    "all nuclei of a class in one MultiPolygon": (
        json.dumps(
            [
                {
                    "type": "Feature",
                    "id": ID,
                    "geometry": {"type": "MultiPolygon", "coordinates": [[square()], [square(5, 5)], [square(50)]]},
                    "properties": {"objectType": "annotation", "classification": CLASS},
                }
            ]
        ),
        "QuPath 0.6 to 0.7 refuses the whole file (feature 1: invalid geometry (self-intersection))",
    ),
    "a comma before the end": (
        '{"type":"FeatureCollection","features":['
        + ",".join(json.dumps(feature(objectType=None, object_type="detection")) for _ in range(2))
        + ",]}",
        "QuPath 0.4 to 0.7 refuses the whole file (a comma before ']'; remove it)",
    ),
    "tiles without id": (
        json.dumps(
            [
                {
                    "type": "Feature",
                    "geometry": {"type": "Polygon", "coordinates": [square(20 * n)]},
                    "properties": {"objectType": "tile", "Name": "Nuclei", "classification": CLASS},
                }
                for n in range(3)
            ]
        ),
        "feature 1 and 2 more: is a tile, not a nucleus",
    ),
    "no objectType": (
        json.dumps(
            {
                "type": "FeatureCollection",
                "features": [
                    {
                        "type": "Feature",
                        "geometry": {"type": "Polygon", "coordinates": [square(20 * n)]},
                        "properties": {"classification": CLASS},
                    }
                    for n in range(3)
                ],
            }
        ),
        "feature 1 and 2 more: becomes an annotation, as objectType is missing",
    ),
    "patches with scores": (
        json.dumps(
            {
                "type": "FeatureCollection",
                "features": [
                    {
                        "type": "Feature",
                        "id": ID,
                        "geometry": {"type": "Polygon", "coordinates": [square(side=350)]},
                        "properties": {
                            "isLocked": False,
                            "measurements": [{"name": "prob_Tumor", "value": 0.5}],
                            "objectType": "tile",
                        },
                    }
                ],
            }
        ),
        "feature 1: is a tile, not a nucleus",
    ),
}


@pytest.mark.parametrize("peer", PEERS)
def test_styles_of_peers(tmp_path, capsys, peer):
    text, reason = PEERS[peer]
    path = write(tmp_path / "peer.geojson", text=text)
    assert main(["check-geojson", str(path)]) == 2
    assert reason in capsys.readouterr().out


def test_verb_passes_good_files(tmp_path, capsys):
    paths = [str(write(tmp_path / f"{name}.geojson", feature())) for name in "ab"]
    assert main(["check-geojson", *paths]) == 0
    assert capsys.readouterr().out.count("good: QuPath 0.4 to 0.7 imports 1 detection") == 2


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("dlup_qupath05", "good: QuPath 0.4 to 0.7 imports 3 annotations"),
        ("cellvit_JP2K-33003-2_cell_detection", "good: QuPath 0.4 to 0.7 imports 3 annotations"),
        ("insitupy_demo_points", "good: QuPath 0.4 to 0.7 imports 1 annotation"),
        ("insitupy_annotations-mixed_types", "good: QuPath 0.4 to 0.7 imports 7 annotations"),
        ("insitupy_annotations-Tumor2", "good: QuPath 0.4 to 0.7 imports 33 annotations"),
        ("histoqc_holed", "good: QuPath 0.4 to 0.7 imports 1 annotation"),
        ("segmentation_results_first400", "feature 1 and 399 more: becomes an annotation, as objectType is missing"),
    ],
)
def test_files_from_qupath_and_peers(shared_data, name, outcome):
    assert str(check_geojson(shared_data / "geojson-reference" / f"{name}.geojson")).endswith(outcome)
