"""Truth from tables, GeoJSON and masks; every error names its file."""

import json
import zipfile

import cv2
import numpy as np
import pytest
import shapely

from muse_pipeline.core.errors import LabelError
from muse_pipeline.evaluation.truth import read_region, read_truth

MPP = (0.5, 0.5)


def feature(geometry, class_name=None, kind="detection", **properties):
    classification = (
        {"classification": {"name": class_name, "color": [1, 2, 3]}} if class_name else {}
    )
    properties = {"objectType": kind, **classification, **properties}
    return {
        "type": "Feature",
        "geometry": json.loads(shapely.to_geojson(geometry)),
        "properties": properties,
    }


def write_features(path, *features):
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def test_classes_of_a_table(tmp_path):
    path = tmp_path / "truth.csv"
    path.write_text("x,y,class\n1.5,2,a\n3,4,b\n5,6,\n")
    assert read_truth(path, ["b", "a"], MPP).nuclei.label.tolist() == [1, 0, -1]
    for word in ("c", "NA"):
        path.write_text(f"x,y,class\n1,2,{word}\n")


def test_a_truth_pasted_twice_is_rejected_and_a_few_doubles_are_not(tmp_path):
    rows = [f"{20 * i},{7 * i},a\n" for i in range(400)]
    table = tmp_path / "truth.csv"
    table.write_text("x,y,class\n" + "".join(rows + rows))
    with pytest.raises(LabelError, match="800 nuclei"):
        read_truth(table, ["a"], MPP)
    table.write_text("x,y,class\n" + "".join(rows + rows[:4]))
    assert len(read_truth(table, ["a"], MPP).nuclei) == 404
    discs = [feature(shapely.Point(40 * i, 9).buffer(8), "a") for i in range(1, 4)]
    drawn = write_features(tmp_path / "truth.geojson", *discs, discs[2])
    assert len(read_truth(drawn, ["a"], MPP).nuclei) == 4
    with pytest.raises(LabelError, match="6 nuclei"):
        read_truth(write_features(drawn, *discs, *discs), ["a"], MPP)


def test_to_a_model_of_one_class_every_class_of_the_truth_is_that(tmp_path):
    table = tmp_path / "truth.csv"
    table.write_text("x,y,class\n1.5,2,Tumour\n3,4,\n")
    assert read_truth(table, ["Nucleus"], MPP).nuclei.label.tolist() == [0, 0]
    drawn = write_features(
        tmp_path / "truth.geojson",
        feature(shapely.Point(9, 9).buffer(5), "Tumour"),
        feature(shapely.Point(40, 9).buffer(5)),
    )
    truth = read_truth(drawn, ["Nucleus"], MPP)
    assert truth.nuclei.label.tolist() == [0, 0]
    assert truth.outlines is not None


def test_class_names_of_qupath_are_those_of_the_model(tmp_path):
    classes, words = ("Lymphocyte", "Epithelial", "Stroma"), ("Tumor", "Immune cells", "stroma")
    table = tmp_path / "truth.csv"
    table.write_text("x,y,class\n" + "".join(f"{9 * i},9,{word}\n" for i, word in enumerate(words)))
    drawn = [feature(shapely.Point(9 * i, 9), word, "annotation") for i, word in enumerate(words)]
    for path in (table, write_features(tmp_path / "truth.geojson", *drawn)):
        assert read_truth(path, classes, MPP).nuclei.label.tolist() == [1, 0, 2]


def test_tabs_and_a_suffix_that_no_one_has(tmp_path):
    path = tmp_path / "truth.tsv"
    path.write_text("class\ty\tx\na\t1\t2\n")
    truth = read_truth(path, ["a"], MPP)
    assert truth.nuclei.xy.tolist() == [[2, 1]]
    assert truth.outlines is None
    other = tmp_path / "truth.xlsx"
    other.write_bytes(b"PK")


def test_points_and_polygons_of_geojson_with_their_region(tmp_path):
    square = shapely.box(10, 10, 20, 20)
    path = write_features(
        tmp_path / "s.geojson",
        feature(shapely.box(0, 0, 400, 400), "Region*", "annotation"),
        feature(shapely.box(500, 0, 600, 100), None, "annotation", name="Region"),
        feature(shapely.box(0, 0, 900, 900), "Tissue", "annotation"),
        feature(square, "a"),
        feature(shapely.box(100, 100, 110, 110)),
    )
    truth = read_truth(path, ["a", "b"], MPP, offset_px=(1000, 0))
    assert truth.nuclei.xy.tolist() == [[1015, 15], [1105, 105]]
    assert truth.nuclei.label.tolist() == [0, -1]
    assert shapely.area(truth.outlines).tolist() == [100, 100]
    assert truth.region.area == 400 * 400 + 100 * 100
    assert truth.region.bounds[0] == 1000
    mixed = write_features(
        tmp_path / "m.geojson",
        feature(square, "a"),
        feature(shapely.Point(5, 6), "a", "annotation"),
    )
    truth = read_truth(mixed, ["a"], MPP)
    assert truth.outlines is None
    assert truth.nuclei.xy.tolist() == [[15, 15], [5, 6]]
    assert truth.region is None


def test_outlines_and_regions_whose_lines_cross_are_repaired(tmp_path):
    bow = shapely.Polygon([(0, 0), (30, 30), (30, 0), (0, 60)])
    wide = shapely.transform(bow, lambda xy: xy * 10)
    path = write_features(
        tmp_path / "s.geojson", feature(bow, "a"), feature(wide, "Region", "annotation")
    )
    truth = read_truth(path, ["a"], MPP)
    assert truth.outlines[0].geom_type == "Polygon"
    assert truth.outlines[0].is_valid
    assert truth.outlines[0].contains(shapely.Point(truth.nuclei.xy[0]))
    assert truth.region.geom_type == "MultiPolygon"
    assert truth.region.area == pytest.approx(shapely.make_valid(wide).area)


def test_a_mask_gives_outlines_without_classes(tmp_path):
    picture = np.zeros((40, 60), np.uint16)
    picture[10:20, 30:40] = 7
    picture[25:31, 5:9] = 300
    cv2.imwrite(str(tmp_path / "s.png"), picture)
    truth = read_truth(tmp_path / "s.png", ["a"], MPP)
    assert truth.nuclei.xy.tolist() == [[35, 15], [7, 28]]
    assert truth.nuclei.label.tolist() == [-1, -1]
    assert shapely.area(truth.outlines).tolist() == [100, 24]
    cv2.imwrite(str(tmp_path / "colour.png"), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(LabelError, match=r"colour\.png: expected one channel"):
        read_truth(tmp_path / "colour.png", ["a"], MPP)


def test_a_region_from_a_file_of_its_own(tmp_path):
    path = write_features(
        tmp_path / "r.geojson", feature(shapely.box(0, 0, 10, 20), "whatever", "annotation")
    )
    assert read_region(path, None, (5, 0)).bounds == (5, 0, 15, 20)
    ignored = feature(shapely.box(0, 0, 10, 5), "Ignore*", "annotation")
    write_features(path, feature(shapely.box(0, 0, 10, 20), "whatever", "annotation"), ignored)
    assert read_region(path, None).bounds == (0, 5, 10, 20)
    mask = np.zeros((10, 20), np.uint8)
    mask[5:, :10] = 255
    cv2.imwrite(str(tmp_path / "r.png"), mask)
    assert read_region(tmp_path / "r.png", (200, 100)).bounds == (0, 50, 100, 100)
    write_features(path, feature(shapely.Point(1, 2)))


def test_a_zipped_truth(tmp_path):
    write_features(tmp_path / "s.geojson", feature(shapely.Point(3, 4), "a"))
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        archive.write(tmp_path / "s.geojson", "s.geojson")
    assert read_truth(tmp_path / "s.zip", ["a"], MPP).nuclei.xy.tolist() == [[3, 4]]


def test_children_of_an_annotation_are_nuclei(tmp_path):
    nuclei = [feature(shapely.box(x, 10, x + 10, 20), "a") for x in (10, 50)]
    nested = feature(shapely.box(40, 0, 90, 30), "Region*", "annotation", childObjects=nuclei[1:])
    path = write_features(
        tmp_path / "s.geojson",
        feature(
            shapely.box(0, 0, 100, 100), "Region*", "annotation", childObjects=[nuclei[0], nested]
        ),
    )
    truth = read_truth(path, ["a", "b"], MPP)
    assert truth.nuclei.xy.tolist() == [[15, 15], [55, 15]]
    assert read_region(path, None).area == 100 * 100
