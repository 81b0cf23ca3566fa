"""The check of GeoJSON agrees with the observed behaviour of QuPath's importers; files of other tools are tested."""

import csv
import gzip
import json
import re
import zipfile
from collections import Counter

import pytest
from nuclei_example import draw_nuclei, slide_info, write_example
from qupath_check import check_geojson
from qupath_rules import VERSIONS

from muse_pipeline.core.errors import GeoJSONError
from muse_pipeline.qupath.read import read_geojson
from muse_pipeline.qupath.write import write_geojson

ID = "2aa7e31c-8437-499d-ba61-88aacd9a2c3f"
CLASS = {"name": "Tumour", "color": [200, 0, 0]}


def square(x=0, y=0, side=10):
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]


def feature(ring=None, **changes):
    """A valid feature with ``changes``: keys of the feature itself are replaced, others are set in its properties."""
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
    ):
        verdict = check_geojson(write(tmp_path / "a.geojson", text=text))
        assert verdict.is_good, str(verdict)
        assert verdict.n_by_type == {"detection": 1}
    members = [gzip.compress(part.encode()) for part in ("[", json.dumps(feature()), "]")]
    (tmp_path / "a.geojson.gz").write_bytes(b"".join(members))
    assert check_geojson(tmp_path / "a.geojson.gz").is_good


def geometry(kind, coordinates, **changes):
    return feature(geometry={"type": kind, "coordinates": coordinates}, **changes)


def shaped(**changes):
    return feature(geometry={"type": "Polygon", "coordinates": [square()], **changes})


def shaped_text(member):
    """JSON of a feature whose geometry has ``member``, given as JSON text that ``json.dumps`` would not write."""
    return json.dumps([shaped(that=0)]).replace('"that": 0', member)


def nested(levels):
    """A feature whose JSON is nested ``levels`` deep."""
    value = 0
    for _ in range(levels - 2):
        value = [value]
    return feature(note=value)


def cell(nucleus):
    return feature(objectType="cell") | {"nucleusGeometry": nucleus}


def without(key):
    return {name: value for name, value in feature().items() if name != key}


# Observed behaviour of QuPath's importers: name -> (an item of a FeatureCollection or a whole text, the versions that
# reject the whole file, the types of the objects that the other versions import).
ALL, NONE, ONLY_04, TO_05, SINCE_06 = "0.4 0.5 0.6 0.7", "", "0.4", "0.4 0.5", "0.6 0.7"
QUESTIONS = {
    "multipolygon of one part": (geometry("MultiPolygon", [[square()]]), TO_05, "detection"),
    "with a hole": (geometry("MultiPolygon", [[square(side=30), square(9, 9)]]), TO_05, "detection"),
    "in a bare list": (json.dumps([geometry("MultiPolygon", [[square()]])]), TO_05, "detection"),
    "multipolygon of two parts": (geometry("MultiPolygon", [[square()], [square(50)]]), NONE, "detection"),
    "two parts that touch": (geometry("MultiPolygon", [[square()], [square(10)]]), NONE, "detection"),
    "two parts that overlap": (geometry("MultiPolygon", [[square()], [square(5)]]), SINCE_06, "detection"),
    "multipolygon without parts": (geometry("MultiPolygon", []), NONE, "detection"),
    "nucleus of one part": (cell({"type": "MultiPolygon", "coordinates": [[square()]]}), TO_05, "cell"),
    "nucleus null": (cell(None), ALL, None),
    "cell without nucleus": (feature(objectType="cell"), NONE, "cell"),
    "polygon without rings": (geometry("Polygon", []), NONE, "detection"),
    "empty ring": (geometry("Polygon", [[]]), NONE, "detection"),
    "one position": (geometry("Polygon", [[[0, 0]]]), ALL, None),
    "two positions": (geometry("Polygon", [[[0, 0], [0, 0]]]), ALL, None),
    "three positions": (geometry("Polygon", [[[0, 0], [5, 5], [0, 0]]]), NONE, "detection"),
    "ring not closed": (feature(square()[:-1]), ALL, None),
    "hole without outline": (geometry("Polygon", [[], square()]), ALL, None),
    "repeated position": (feature([[0, 0], *square()]), NONE, "detection"),
    "closed but for z": (geometry("Polygon", [[[0, 0, 1], [9, 0, 1], [9, 9, 1], [0, 0, 2]]]), NONE, "detection"),
    "bow-tie": (feature([[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]), SINCE_06, "detection"),
    "coordinates in quotes": (feature([["0", "0"], ["9", "0"], ["9", "9"], ["0", "0"]]), NONE, "detection"),
    "coordinates that are words": (feature([["a", 1], [2, 3], [3, 4], ["a", 1]]), ALL, None),
    "coordinate null": (feature([[0, 0], [None, 0], [5, 5], [0, 0]]), ALL, None),
    "coordinates null": (geometry("Polygon", None), ALL, None),
    "line": (geometry("LineString", [[3, 4], [5, 6]]), NONE, "detection"),
    "line of one position": (geometry("LineString", [[3, 4]]), ALL, None),
    "point without position": (geometry("Point", []), ALL, None),
    "points": (geometry("MultiPoint", [[3, 4], [5, 6]]), NONE, "detection"),
    "collection": (
        feature(
            geometry={"type": "GeometryCollection", "geometries": [{"type": "Polygon", "coordinates": [square()]}]}
        ),
        SINCE_06,
        "detection",
    ),
    "geometry null": (feature(geometry=None), ALL, None),
    "geometry missing": (without("geometry"), ALL, None),
    "geometry type in lower case": (geometry("polygon", [square()]), ALL, None),
    "plane": (shaped(plane={"c": -1, "z": 0, "t": "0"}), NONE, "detection"),
    "plane null": (shaped(plane=None), ALL, None),
    "plane a number": (shaped(plane=1), ALL, None),
    "plane of words": (shaped(plane={"z": "one"}), ALL, None),
    "plane of null": (shaped(plane={"z": None}), ALL, None),
    "plane with another key": (shaped(plane={"z": 0, "name": "a"}), ALL, None),
    "plane nan": (shaped_text('"plane":{"z":nan}'), ALL, None),
    "plane inf": (shaped_text('"plane":{"t":inf}'), ALL, None),
    "plane null of a nucleus": (cell({"type": "Polygon", "coordinates": [square()], "plane": None}), ALL, None),
    "plane null of a bare geometry": (
        json.dumps({"type": "Polygon", "coordinates": [square()], "plane": None}),
        NONE,
        "annotation",
    ),
    "ellipse": (shaped(isEllipse=True), NONE, "detection"),
    "isEllipse null": (shaped(isEllipse=None), ALL, None),
    "isEllipse a word": (shaped(isEllipse="yes"), NONE, "detection"),
    "position nan": (shaped_text('"coordinates":[[[0,nan],[9,0],[9,9],[0,nan]]]'), ALL, None),
    "measurement nan": (json.dumps([feature(measurements={"a": 1})]).replace('"a": 1', '"a": nan'), ALL, None),
    "measurement inf": (json.dumps([feature(measurements={"a": 1})]).replace('"a": 1', '"a": inf'), ALL, None),
    "255 levels": (json.dumps([nested(254)]), NONE, "detection"),
    "256 levels": (json.dumps([nested(255)]), SINCE_06, "detection"),
    "256 levels in lines": ("[\n" + json.dumps(nested(255)) + "\n]", SINCE_06, "detection"),
    "256 levels in a collection": (nested(254), SINCE_06, "detection"),
    "root without a shape": (feature(geometry={}, objectType="root"), NONE, "root"),
    "properties null": (feature() | {"properties": None}, ALL, None),
    "properties missing": (without("properties"), NONE, "annotation"),
    "id null": (feature(id=None), ALL, None),
    "id a number": (feature(id=5), NONE, "detection"),
    "id of the form before 0.3": (
        {**feature(id="PathDetectionObject"), "properties": {"classification": CLASS}},
        NONE,
        "detection",
    ),
    "objectType null": (feature(objectType=None), ALL, None),
    "objectType in upper case": (feature(objectType="Detection"), NONE, "annotation"),
    "objectType as a class of QuPath": (feature(objectType="PathDetectionObject"), NONE, "detection"),
    "objectType tma_core": (feature(objectType="tma_core"), NONE, "tmaCore"),
    "objectType tile": (feature(objectType="tile"), NONE, "tile"),
    "name null": (feature(name=None), ALL, None),
    "name a number": (feature(name=3), NONE, "detection"),
    "color null": (feature(color=None), NONE, "detection"),
    "color in hexadecimal": (feature(color="#ff0000"), ALL, None),
    "isLocked a word": (feature(isLocked="yes"), NONE, "detection"),
    "class null": (feature(classification=None), NONE, "detection"),
    "class {}": (feature(classification={}), NONE, "detection"),
    "class blank": (feature(classification=""), ALL, None),
    "class a number": (feature(classification=3), ALL, None),
    "class a list": (feature(classification=["A", "B"]), ALL, None),
    "class without color": (feature(classification={"name": "A"}), ALL, None),
    "class without name": (feature(classification={"color": [1, 2, 3]}), ALL, None),
    "class of a blank name": (feature(classification={"name": " ", "color": [1, 2, 3]}), ALL, None),
    "class color null": (feature(classification={"name": "A", "color": None}), NONE, "detection"),
    "colorRGB of 0.3": (feature(classification={"name": "A", "colorRGB": -377282}), NONE, "detection"),
    "class color a number": (feature(classification={"name": "A", "color": -377282}), ALL, None),
    "class color in hexadecimal": (feature(classification={"name": "A", "color": "#ff0000"}), ALL, None),
    "class color with alpha": (feature(classification={"name": "A", "color": [1, 2, 3, 4]}), NONE, "detection"),
    "class color of two parts": (feature(classification={"name": "A", "color": [1, 2]}), ALL, None),
    "class with a line break": (feature(classification={"name": "A\nB", "color": [1, 2, 3]}), ALL, None),
    "class with a line break, as a text": (feature(classification="A\rB"), ALL, None),
    "class with a line break at its end": (feature(classification="A\n"), NONE, "detection"),
    "class with an empty part": (feature(classification={"name": "A:: B", "color": [1, 2, 3]}), ALL, None),
    "class that begins with a colon": (feature(classification=": Positive"), ALL, None),
    "class that ends with a colon": (feature(classification="A:"), NONE, "detection"),
    "class names with a colon": (feature(classification={"names": ["A: B", "C"], "color": [1, 2, 3]}), ALL, None),
    "class names with a line break": (feature(classification={"names": ["A", "B\nC"], "color": [1, 2, 3]}), ALL, None),
    "colorRGB a word": (feature(classification={"name": "A", "colorRGB": "red"}), ALL, None),
    "colorRGB a list": (feature(classification={"name": "A", "colorRGB": [1, 2, 3]}), ALL, None),
    "colorRGB in quotes": (feature(classification={"name": "A", "colorRGB": "-377282"}), NONE, "detection"),
    "class color of fractions": (feature(classification={"name": "A", "color": [1.5, 2, 300]}), NONE, "detection"),
    "measurement NaN in quotes": (feature(measurements={"a": "NaN"}), ONLY_04, "detection"),
    "measurement NaN": (json.dumps([feature(measurements={"a": float("nan")})]), ONLY_04, "detection"),
    "measurement Infinity in quotes": (feature(measurements={"a": "-Infinity"}), ONLY_04, "detection"),
    "measurement in quotes": (feature(measurements={"a": "1.5"}), ONLY_04, "detection"),
    "measurement a word": (feature(measurements={"a": "large"}), ALL, None),
    "measurement null": (feature(measurements={"a": None}), ONLY_04, "detection"),
    "measurement true": (feature(measurements={"a": True}), ONLY_04, "detection"),
    "measurement an object": (feature(measurements={"a": {"b": 1}}), ONLY_04, "detection"),
    "list of measurements": (feature(measurements=[{"name": "a", "value": "NaN"}]), NONE, "detection"),
    "list of numbers": (feature(measurements=[1, 2]), ALL, None),
    "list with a word": (feature(measurements=[{"name": "a", "value": "large"}]), ALL, None),
    "measurements a word": (feature(measurements="x"), NONE, "detection"),
    "measurements null": (feature(measurements=None), NONE, "detection"),
    "children": (feature(objectType="annotation", childObjects=[feature()]), NONE, "annotation detection"),
    "child that is rejected": (feature(objectType="annotation", childObjects=[feature(id=None)]), ALL, None),
    "child without a type": (
        feature(objectType="annotation", childObjects=[without("type")]),
        NONE,
        "annotation detection",
    ),
    "feature null": (None, ALL, None),
    "feature a number": (7, ALL, None),
    "feature in a list": ([feature()], ALL, None),
    "feature without type": (without("type"), NONE, "detection"),
    "in a bare list without type": (json.dumps([without("type")]), NONE, None),
    "in a bare list type null": (json.dumps([feature(type=None)]), ALL, None),
    "null in a bare list": (json.dumps([None, feature()]), NONE, "detection"),
    "list in a bare list": (json.dumps([[feature()]]), NONE, "detection"),
    "bare geometry": (json.dumps({"type": "Polygon", "coordinates": [square()]}), NONE, "annotation"),
    "comma before ]": ('{"type":"FeatureCollection","features":[' + json.dumps(feature()) + ",]}", ALL, None),
    "comma before ] in lines": (
        '{"type":"FeatureCollection","features":[\n' + json.dumps(feature()) + ",\n]}",
        ALL,
        None,
    ),
    "comma before ] in a bare list": ("[\n" + json.dumps(feature()) + ",\n]", ALL, None),
    "cut off": (json.dumps([feature()])[:-5], ALL, None),
    "two documents": (json.dumps(feature()) * 2, ALL, None),
    "a feature a line": (json.dumps(feature()) + "\n" + json.dumps(feature()), ALL, None),
    "comment": ("// exported\n" + json.dumps(feature()), ALL, None),
    "single quotes": (json.dumps(feature()).replace('"', "'"), ALL, None),
    "byte order mark": ("\ufeff" + json.dumps(feature()), NONE, "detection"),
    "nothing": (" ", NONE, None),
    "a word": ("hello", ALL, None),
    "another type": ('{"type":"Topology"}', NONE, None),
    "no features": ('{"type":"FeatureCollection"}', NONE, None),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_what_each_version_does(tmp_path, question):
    item, rejected_by, becomes = QUESTIONS[question]
    path = write(tmp_path / "a.geojson", item, text=item if isinstance(item, str) else None)
    verdict = check_geojson(path)
    assert " ".join(verdict.rejected_by()) == rejected_by, str(verdict)
    if rejected_by != ALL:
        assert verdict.n_by_type == Counter(becomes.split() if becomes else [])


NOT_JSON = {f"raw_{name}.geojson" for name in ("bareword", "comment", "single_quotes")}  # QuPath accepts these
TYPES = {"Detection": "detection", "Cell": "cell", "Annotation": "annotation", "Tile": "tile", "Root": "root"}


def test_every_file_that_was_put_to_qupath(qupath_reference):
    """For every JSON file in the table, the check names the versions that reject it and counts the imported objects."""
    with (qupath_reference / "verdicts.tsv").open(encoding="utf-8") as file:
        header, *rows = csv.reader(file, "excel-tab", quoting=csv.QUOTE_NONE)
    assert [name.split()[-1].rpartition(".")[0] for name in header[1:]] == list(VERSIONS)
    for name, *seen in rows:
        if name in NOT_JSON:
            continue
        verdict = check_geojson(qupath_reference / "files" / name)
        rejected = [version for version, text in zip(VERSIONS, seen, strict=True) if text.startswith("refused")]
        assert list(verdict.rejected_by()) == rejected, (name, str(verdict))
        for text in seen:
            if text.startswith("OK"):
                counts = re.findall(r"(\w+)=(\d+)", text[: text.index("}")])
                seen_types = Counter({TYPES.get(kind, "tmaCore"): int(n) for kind, n in counts})
                seen_types["detection"] += name == "children.geojson"  # the table only counts objects without a parent
                assert verdict.n_by_type == seen_types, (name, text)
    assert len(rows) > 100


def test_the_verdict_names_versions_and_reasons(tmp_path):
    bow_tie = [[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]
    verdict = check_geojson(write(tmp_path / "a.geojson", feature(bow_tie)))
    assert str(verdict).endswith(
        "bad: QuPath 0.6 to 0.7 rejects the whole file (feature 1: invalid geometry (self-intersection)); "
        "QuPath 0.4 to 0.5 imports 1 detection"
    )
    odd = feature(measurements={"a": "NaN"}, id=ID[::-1].replace("-", "0"))
    verdict = check_geojson(write(tmp_path / "a.geojson", odd, geometry("MultiPolygon", [[square()]])))
    assert "QuPath 0.4 rejects the whole file (feature 1: a measurement is NaN" in str(verdict)
    assert "QuPath 0.5 rejects the whole file (feature 2: a MultiPolygon of one part" in str(verdict)
    assert "QuPath 0.6 to 0.7 imports 2 detections" in str(verdict)


@pytest.mark.parametrize(
    ("item", "reason", "becomes"),
    [
        (feature(objectType="nucleus"), "becomes an annotation, as objectType 'nucleus' is unknown", "annotation"),
        (
            feature() | {"properties": {}, "objectType": "detection"},
            "objectType stands outside properties",
            "annotation",
        ),
        (feature() | {"properties": {"type": "cell"}}, "becomes a cell, as objectType is missing", "cell"),
        (feature(objectType="tile"), "is a tile, not a nucleus", "tile"),
        ({"type": "Point", "coordinates": [1, 2]}, "geometry without a feature", "annotation"),
        (feature(id="object_3"), "loses its id", "detection"),
        (feature([[0, 0], [5, 5], [0, 0]]), "nothing is left of it", "detection"),
        (feature([[0, 0], [9, 0], [9, 0.004], [0, 0]]), "nothing is left of it", "detection"),
        (geometry("Polygon", [[]]), "is empty", "detection"),
        (feature(measurements="large"), "loses its measurements", "detection"),
        (feature(classification={"name": None, "color": [1, 2, 3]}), "loses its classification", "detection"),
        (feature(classification={"name": "A", "color": [0.5, 1, 300]}), "color is changed", "detection"),
        (feature(classification="::"), "loses its classification, whose name is only ':'", "detection"),
    ],
)
def test_imported_with_damage(tmp_path, item, reason, becomes):
    verdict = check_geojson(write(tmp_path / "a.geojson", text=json.dumps([item])))
    assert not verdict.is_good and not verdict.rejected_by()
    assert reason in str(verdict)
    assert verdict.n_by_type == {becomes: 1}


def test_ids_used_twice(tmp_path):
    items = [feature(square(x), id=ID if x % 2 else f"{x:08d}{ID[8:]}") for x in range(6)]
    verdict = check_geojson(write(tmp_path / "a.geojson", *items))
    assert "feature 4 and 1 more: has the id of another feature" in str(verdict)
    short = [feature(id=name) for name in ("1-1-1-1-1", "00000001-0001-0001-0001-000000000001", "2-1-1-1-1")]
    assert "feature 2: has the id of another feature" in str(check_geojson(write(tmp_path / "a.geojson", *short)))
    assert check_geojson(write(tmp_path / "a.geojson", *[without("id")] * 3)).is_good


def test_names_decide_how_qupath_reads_a_file(tmp_path):
    assert "ends in none of" in str(check_geojson(write(tmp_path / "a.txt", feature())))
    assert check_geojson(write(tmp_path / "a.txt", feature())).n_by_type == {}
    assert check_geojson(write(tmp_path / "A.GeoJSON", feature())).is_good
    assert "not JSON" in str(check_geojson(write(tmp_path / "a.geojson", text="{")))
    for text in ("[" * 100_000, "[" * 990 + "]" * 990):
        assert "nested too deeply" in str(check_geojson(write(tmp_path / "a.geojson", text=text)))
    (tmp_path / "a.geojson").write_bytes("[]".encode("utf-16"))
    assert "not JSON" in str(check_geojson(tmp_path / "a.geojson"))
    assert "gzip compression is damaged" in str(check_geojson(write(tmp_path / "a.json.gz", feature())))
    with pytest.raises(GeoJSONError, match="no such file"):
        check_geojson(tmp_path / "none.geojson")


def test_a_zip_loses_a_rejected_file_without_a_message(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.geojson", json.dumps(feature()))
        archive.writestr("notes.txt", "{")
    assert str(check_geojson(tmp_path / "a.zip")).endswith("good: QuPath 0.4 to 0.7 imports 1 detection")
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.writestr("b.json", json.dumps([feature(), feature(id=None)]))
    verdict = check_geojson(tmp_path / "a.zip")
    assert not verdict.rejected_by() and verdict.n_by_type == {"detection": 1}
    assert "feature 2: b.json: id is null or not a text; QuPath 0.4 to 0.7 leaves this file out" in str(verdict)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("notes.txt", "{")
    assert "holds no .geojson or .json file" in str(check_geojson(tmp_path / "a.zip"))
    (tmp_path / "a.zip").write_bytes(b"PK")
    assert "cannot be unpacked" in str(check_geojson(tmp_path / "a.zip"))


def test_gzip_in_a_zip_is_read(tmp_path):
    """QuPath also reads compressed files in a zip."""
    packed = gzip.compress(json.dumps(feature()).encode())
    for name, content, good in (
        ("a.geojson.gz", packed, True),
        ("b.json.gz", b"", False),
        ("c.geojson.gz", packed[:9], False),
    ):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr(name, content)
        verdict = check_geojson(tmp_path / "a.zip")
        assert verdict.is_good == good, str(verdict)
        assert good or (f"{name}: " in str(verdict) and not verdict.rejected_by())
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.geojson.gz", packed)
    assert len(read_geojson(tmp_path / "a.zip")) == 1


def test_what_follows_a_gzip_member_is_left_out_as_by_java(tmp_path):
    path = tmp_path / "a.geojson.gz"
    first, second = (gzip.compress(text.encode()) for text in (f"[{json.dumps(feature())}", "]"))
    for zeros in (1, 500):
        path.write_bytes(first + bytes(zeros) + second)
        assert " ".join(check_geojson(path).rejected_by()) == ALL, zeros
    for rest in (b"\0" * 40, b"end", b"x" * 100_000, b"\x1f"):
        path.write_bytes(first + second + rest)
        verdict = check_geojson(path)
        assert verdict.n_by_type == {"detection": 1} and not verdict.rejected_by()
        assert f"the {len(rest):,} bytes after the end of the gzip compression are left out" in str(verdict)
    path.write_bytes(first + second[:12])
    assert "the gzip compression is damaged" in str(check_geojson(path))


# Files as six other tools write them, reconstructed from descriptions of these tools: name -> (the features of a
# FeatureCollection or a whole text, what is said about it).
PEERS = {
    "objectType outside properties, class name as type": (
        [
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
        "QuPath 0.6 to 0.7 rejects the whole file (feature 1: invalid geometry (self-intersection))",
    ),
    "a comma before the end": (
        '{"type":"FeatureCollection","features":['
        + ",".join(json.dumps(feature() | {"properties": {"object_type": "detection"}}) for _ in range(2))
        + ",]}",
        "QuPath 0.4 to 0.7 rejects the whole file (not JSON (",
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
        [
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [square(20 * n)]},
                "properties": {"classification": CLASS},
            }
            for n in range(3)
        ],
        "feature 1 and 2 more: becomes an annotation, as objectType is missing",
    ),
    "patches with scores": (
        [
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
        "feature 1: is a tile, not a nucleus",
    ),
}


@pytest.mark.parametrize("peer", PEERS)
def test_styles_of_peers(tmp_path, peer):
    content, reason = PEERS[peer]
    path = tmp_path / "peer.geojson"
    verdict = check_geojson(write(path, text=content) if isinstance(content, str) else write(path, *content))
    assert not verdict.is_good and reason in str(verdict)


@pytest.mark.parametrize(
    "text", ['{"type": "FeatureCollection", "features": []}', "[]", '[{"type": "FeatureCollection", "features": []}]']
)
def test_a_file_without_objects_is_not_good(tmp_path, text):
    verdict = check_geojson(write(tmp_path / "a.geojson", text=text))
    assert str(verdict).endswith("a.geojson: bad: QuPath 0.4 to 0.7 imports no objects\n  contains no objects")


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


def test_faults_of_children_have_numbers_of_their_own(tmp_path):
    parent = feature(objectType="annotation", childObjects=[feature(square(x)) for x in (0, 20)])
    verdict = check_geojson(write(tmp_path / "a.geojson", feature(square(40), id=ID.replace("2", "3")), parent))
    assert verdict.n_by_type == {"detection": 3, "annotation": 1}
    assert "feature 3 and 1 more: has the id of another feature" in str(verdict)
