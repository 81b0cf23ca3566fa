"""Which objects are called something, and which are called nothing."""

import json

import pytest

from muse_pipeline.nuclei.annotated_region import are_called
from muse_pipeline.nuclei.geojson_reader import read_geojson


@pytest.mark.parametrize(
    ("words", "called"), [(["Region"], [False, True, False]), (["None"], [False] * 3), ([], [False] * 3)]
)
def test_what_has_no_class_is_not_called_none(tmp_path, words, called):
    square = {"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 9], [0, 9], [0, 0]]]}
    classes = ({"name": "a", "color": [0, 0, 0]}, {"name": "Region*", "color": [0, 0, 0]}, None)
    features = [
        {"type": "Feature", "geometry": square, "properties": {"objectType": "detection", "classification": one}}
        for one in classes
    ]
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(features))
    assert are_called(read_geojson(path), words).tolist() == called
