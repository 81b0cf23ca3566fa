import gzip
import json

import pytest

from muse_pipeline.core.errors import GeoJSONError
from muse_pipeline.qupath.parse import iterate_features

FEATURES = [{"type": "Feature", "id": number} for number in range(3)]
LINES = [json.dumps(feature) for feature in FEATURES]
COLLECTION = '{"type":"FeatureCollection","features":'
FORMS = {
    "a feature a line": COLLECTION + "[\n" + ",\n".join(LINES) + "\n]}\n",
    "windows lines": COLLECTION + "[\r\n" + ",\r\n".join(LINES) + "\r\n]}\r\n",
    "a head of several lines": (
        '{\n"type": "FeatureCollection",\n"crs": {"a": [1]},\n"features": [\n'
        + ",\n".join(LINES)
        + "\n]\n}\n"
    ),
    "a bare list a line": "[\n" + ",\n".join(LINES) + "\n]",
    "the end beside the last": COLLECTION + "[\n" + ",\n".join(LINES) + "]}",
    "a bare list, the end beside the last": "[\n" + ",\n".join(LINES) + "]",
    "commas before lines": COLLECTION + "[\n" + "\n,".join(LINES) + "\n]}",
    "commas of their own": COLLECTION + "[\n" + "\n,\n".join(LINES) + "\n]}",
    "two on a line": COLLECTION + "[\n" + LINES[0] + ",\n" + LINES[1] + "," + LINES[2] + "\n]}",
    "indented after the first": (
        COLLECTION + "[\n" + LINES[0] + ",\n" + json.dumps(FEATURES[1:], indent=1)[1:] + "}"
    ),
    "one line": json.dumps({"type": "FeatureCollection", "features": FEATURES}),
    "indented": json.dumps({"type": "FeatureCollection", "features": FEATURES}, indent=2),
    "bare list": json.dumps(FEATURES),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_features(tmp_path, form):
    path = tmp_path / "a.geojson"
    path.write_bytes(FORMS[form].encode())
    assert list(iterate_features(path)) == FEATURES
    path.write_bytes(
        gzip.compress(FORMS[form][:50].encode()) + gzip.compress(FORMS[form][50:].encode())
    )
    assert list(iterate_features(path)) == FEATURES


def test_empty_and_single(tmp_path):
    path = tmp_path / "a.geojson"
    for text, expected in (
        (COLLECTION + "[\n]}", []),
        (COLLECTION + "[]}", []),
        ("[]", []),
        (LINES[0], FEATURES[:1]),
        ('{"type":"Point","coordinates":[1,2]}', [{"type": "Point", "coordinates": [1, 2]}]),
    ):
        path.write_text(text)
        assert list(iterate_features(path)) == expected


def test_missing_and_damaged_files(tmp_path):
    (tmp_path / "cut.geojson.gz").write_bytes(
        gzip.compress(FORMS["a feature a line"].encode())[:-12]
    )
    with pytest.raises(GeoJSONError, match="cannot be read"):
        list(iterate_features(tmp_path / "cut.geojson.gz"))
