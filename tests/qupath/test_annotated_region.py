"""Which objects belong to the class with a given name, such as Region or Ignore."""

import pytest
import shapely
from drawn_shapes import feature, write_features

from muse_pipeline.qupath.parse import is_called
from muse_pipeline.qupath.read import read_geojson
from muse_pipeline.qupath.regions import are_called


@pytest.mark.parametrize(
    "words, called",
    [(["Region"], [False, True, False]), (["None"], [False] * 3), ([], [False] * 3)],
)
def test_what_has_no_class_is_not_called_none(tmp_path, words, called):
    square = shapely.box(0, 0, 9, 9)
    features = [feature(square, name, "detection") for name in ("a", "Region*", None)]
    features[2]["properties"]["classification"] = None
    path = write_features(tmp_path / "a.geojson", *features)
    assert are_called(read_geojson(path), words).tolist() == called


@pytest.mark.parametrize(
    "words, class_name, called",
    [
        (["Ignore"], "Ignore*: Positive", True),
        (["Ignore"], "Ignore: Negative", True),
        (["Region"], "Region*: Positive", True),
        (["Tumor"], "Tumor: Positive", False),  # positive nuclei, not a region
        (["Tumor: Positive"], "Tumor: Positive", True),
        (["Ignore"], "Tumor: Ignore*", False),
    ],
)
def test_a_class_derived_from_ignore_or_region_counts_as_that(words, class_name, called):
    assert is_called(words, class_name) is called
