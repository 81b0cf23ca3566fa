"""Exports from QuPath 0.4 to 0.7 are read as a region of interest, as labels, as truth and as
imported nuclei.
"""

import re
import warnings

import numpy as np
import pytest
import shapely

from muse_pipeline.core.errors import GeoJSONError, LabelError, LeftOutWarning
from muse_pipeline.evaluation.truth import read_truth
from muse_pipeline.labels.nuclei_files import ObjectRules, read_drawn
from muse_pipeline.nuclei.class_names import ClassWords
from muse_pipeline.qupath.read import read_geojson
from muse_pipeline.qupath.regions import read_areas

VERSIONS = ("0.4.4", "0.5.1", "0.6.0", "0.7.0")
TUMOUR_PX2, OTHER_PX2, IGNORED_PX2 = (
    1_333_825,
    560_000,
    90_000,
)  # areas of annotations in most files
REST_PX2 = TUMOUR_PX2 - IGNORED_PX2
BOTH_PX2 = REST_PX2 + OTHER_PX2
NOTHING = r"holds no polygon for a region of interest \(found: {}\)"
# File name -> area of its region of interest in px2, or the error.
AREAS = {
    "ann.geojson": BOTH_PX2,
    "ann.geojson.gz": BOTH_PX2,
    "ann.zip": BOTH_PX2,
    "ann_fc.geojson": BOTH_PX2,
    "ann_fc_pretty.geojson": BOTH_PX2,
    "crossing.geojson": 180_000,
    "empty.geojson": TUMOUR_PX2,
    "feature_gson.json": TUMOUR_PX2,
    "hier_gson.geojson": TUMOUR_PX2,
    "ignore_derived.geojson": REST_PX2,
    "ignore_name.geojson": REST_PX2,
    "mixed_fc.geojson": REST_PX2,
    "nested.geojson": TUMOUR_PX2,
    "onlydetclass_ignore_inside.geojson": REST_PX2,
    "outside.geojson": 90_000,
    "partly_outside.geojson": 2_250_000,
    "roi_gson.json": 983_837,
    "shapes.geojson": 2_227_662,
    "single.geojson": TUMOUR_PX2,
    "unareal.geojson": TUMOUR_PX2,
    "all_ignored.geojson": "nothing is left of its areas after subtraction of the class 'Ignore'",
    "classes.geojson": "nothing is left of its areas after subtraction of the class 'Ignore'",
    "cell.geojson": NOTHING.format("1 cell"),
    "core.geojson": 196_221,
    "det.geojson": NOTHING.format("1 detection"),
    "none.geojson": NOTHING.format("no objects"),
    "none_fc.geojson": NOTHING.format("no objects"),
    "only_ignore.geojson": NOTHING.format("1 annotation of class 'Ignore'"),
    "only_lines.geojson": NOTHING.format("1 line and 1 point"),
    "plane.geojson": NOTHING.format("1 object on a plane above 0"),
    "root.geojson": NOTHING.format("1 root object"),
    "tile.geojson": NOTHING.format("1 tile"),
}
AREA_WARNINGS = {
    "empty.geojson": "left out 1 empty object",
    "unareal.geojson": "left out 2 lines and 2 points",
}
# File name -> (number of nuclei, number of regions) or the error, where "Tumor" is the class of
# annotated regions.
LARGE = (
    "covers more than the 5,000 um2 of any nucleus; give it the class 'Tumor' if it bounds what was"
    " annotated"
)
LABELS = {
    "all_ignored.geojson": (0, 1),
    "cell.geojson": (1, 0),
    "crossing.geojson": (0, 2),
    "det.geojson": (1, 0),
    "empty.geojson": (0, 1),
    "feature_gson.json": (0, 1),
    "hier_gson.geojson": (0, 1),
    "ignore_derived.geojson": (0, 1),
    "ignore_name.geojson": (0, 1),
    "mixed_fc.geojson": (2, 1),
    "nested.geojson": (0, 1),
    "none.geojson": (0, 0),
    "none_fc.geojson": (0, 0),
    "only_ignore.geojson": (0, 0),
    "only_lines.geojson": (2, 0),
    "onlydetclass_ignore_inside.geojson": (0, 1),
    "outside.geojson": (0, 1),
    "single.geojson": (0, 1),
    "unareal.geojson": (2, 1),
    **dict.fromkeys(
        (name for name in AREAS if name.startswith("ann")), LARGE
    ),  # "Region 1" is not a region class
    "partly_outside.geojson": LARGE,
    "roi_gson.json": LARGE,
    "shapes.geojson": LARGE,
    "classes.geojson": LARGE,
    "core.geojson": r"has no usable points or polygons \(left out: 1 TMA core\)",
    "plane.geojson": r"has no usable points or polygons \(left out: 1 object on a plane above 0\)",
    "root.geojson": r"has no usable points or polygons \(left out: 1 root object\)",
    "tile.geojson": r"has no usable points or polygons \(left out: 1 tile\)",
}
LABEL_WARNINGS = {
    "empty.geojson": "left out 1 empty object",
    "mixed_fc.geojson": "left out 1 tile",
    "only_lines.geojson": "left out 1 line",
    "unareal.geojson": "left out 2 lines",
}
WORDS = ClassWords(("Dark",), {"Tumor: Positive": "Dark"}, "")


def read_labels(path):
    """(number of nuclei, number of regions) of labels whose regions have the class Tumor."""
    labels = read_drawn(path, (0.25, 0.25), 8, rules=ObjectRules("Tumor", repairs_regions=False))
    labels.resolve(WORDS.index, -1)
    return len(labels.nuclei), len(shapely.get_parts(labels.area))


def read_quietly(function, *arguments):
    """(result of a reader or the text of its error, its warnings without the path)."""
    with warnings.catch_warnings(record=True, action="always", category=LeftOutWarning) as caught:
        try:
            found = function(*arguments)
        except (GeoJSONError, LabelError) as error:
            found = str(error)
    return found, [str(one.message).removeprefix(f"{arguments[0]}: ") for one in caught]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_export_as_a_region_of_interest(qupath_reference, version):
    paths = sorted((qupath_reference / "exports" / version).iterdir())
    assert {path.name for path in paths} == AREAS.keys()
    for path in paths:
        (found, output), expected = read_quietly(read_areas, path), AREAS[path.name]
        if isinstance(expected, str):
            assert isinstance(found, str) and re.search(expected, found), (path, found)
        else:
            assert found.area == pytest.approx(expected, abs=1), path
        assert output == ([AREA_WARNINGS[path.name]] if path.name in AREA_WARNINGS else []), path


@pytest.mark.parametrize("version", VERSIONS)
def test_every_export_as_labels(qupath_reference, version):
    paths = sorted((qupath_reference / "exports" / version).iterdir())
    assert {path.name for path in paths} == LABELS.keys()
    for path in paths:
        found, output = read_quietly(read_labels, path)
        if isinstance(LABELS[path.name], str):
            assert isinstance(found, str) and re.search(LABELS[path.name], found), (path, found)
        else:
            assert found == LABELS[path.name], path
        assert output == ([LABEL_WARNINGS[path.name]] if path.name in LABEL_WARNINGS else []), path


@pytest.mark.parametrize("version", VERSIONS)
def test_detections_and_cells_keep_class_and_position(qupath_reference, version):
    folder = qupath_reference / "exports" / version
    for name in ("det.geojson", "cell.geojson"):
        truth = read_truth(folder / name, ["Tumor: Positive"], (0.25, 0.25))
        assert truth.nuclei.xy == pytest.approx(np.array([[706.0, 706.0]]))
        assert truth.nuclei.label.tolist() == [0]
    cell = read_geojson(folder / "cell.geojson")
    assert shapely.area(cell.geometry) == pytest.approx(
        shapely.area(read_geojson(folder / "det.geojson").geometry)
    )
    assert list(read_geojson(folder / "tile.geojson").object_type) == ["tile"]
    assert (
        len(read_geojson(folder / "ann.zip")) == len(read_geojson(folder / "ann.geojson.gz")) == 3
    )
