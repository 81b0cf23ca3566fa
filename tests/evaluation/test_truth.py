"""Truth from tables, GeoJSON and masks; every error names its file."""

import zipfile

import cv2
import numpy as np
import pytest
import shapely
from drawn_shapes import feature, write_features
from shapely.geometry import Point, box

from muse_pipeline.core.errors import LabelError
from muse_pipeline.evaluation.truth import read_region, read_truth

MPP = (0.5, 0.5)


@pytest.fixture
def table(tmp_path):
    return tmp_path / "truth.csv"


@pytest.fixture
def drawn(tmp_path):
    return tmp_path / "truth.geojson"


def test_classes_of_a_table(table, tmp_path):
    table.write_text("x,y,class\n1.5,2,a\n3,4,b\n5,6,\n")
    assert read_truth(table, ["b", "a"], MPP).nuclei.label.tolist() == [1, 0, -1]
    (tmp_path / "truth.tsv").write_text("class\ty\tx\na\t1\t2\n")
    truth = read_truth(tmp_path / "truth.tsv", ["a"], MPP)
    assert truth.nuclei.xy.tolist() == [[2, 1]]
    assert truth.outlines is None


def test_a_truth_pasted_twice_is_rejected_and_a_few_doubles_are_not(table, drawn):
    rows = [f"{20 * i},{7 * i},a\n" for i in range(400)]
    table.write_text("x,y,class\n" + "".join(rows + rows))
    with pytest.raises(LabelError, match="800 nuclei"):
        read_truth(table, ["a"], MPP)
    table.write_text("x,y,class\n" + "".join(rows + rows[:4]))
    assert len(read_truth(table, ["a"], MPP).nuclei) == 404
    discs = [feature(Point(40 * i, 9).buffer(8), "a", "detection") for i in range(1, 4)]
    write_features(drawn, *discs, discs[2])
    assert len(read_truth(drawn, ["a"], MPP).nuclei) == 4
    with pytest.raises(LabelError, match="6 nuclei"):
        read_truth(write_features(drawn, *discs, *discs), ["a"], MPP)


def test_to_a_model_of_one_class_every_class_of_the_truth_is_that(table, drawn):
    table.write_text("x,y,class\n1.5,2,Tumour\n3,4,\n")
    discs = [(Point(9, 9).buffer(5), "Tumour"), (Point(40, 9).buffer(5), None)]
    write_features(drawn, *(feature(*disc, "detection") for disc in discs))
    for path in (table, drawn):
        truth = read_truth(path, ["Nucleus"], MPP)
        assert truth.nuclei.label.tolist() == [0, 0]
    assert truth.outlines is not None


def test_points_and_polygons_of_geojson_with_their_region(drawn):
    square = feature(box(10, 10, 20, 20), "a", "detection")
    write_features(
        drawn,
        feature(box(0, 0, 400, 400), "Region*"),
        feature(box(500, 0, 600, 100), name="Region"),
        feature(box(0, 0, 900, 900), "Tissue"),
        square,
        feature(box(100, 100, 110, 110), None, "detection"),
    )
    truth = read_truth(drawn, ["a", "b"], MPP, offset_px=(1000, 0))
    assert truth.nuclei.xy.tolist() == [[1015, 15], [1105, 105]]
    assert truth.nuclei.label.tolist() == [0, -1]
    assert shapely.area(truth.outlines).tolist() == [100, 100]
    assert truth.region.area == 400 * 400 + 100 * 100
    assert truth.region.bounds[0] == 1000
    write_features(drawn, square, feature(Point(5, 6), "a"))
    with zipfile.ZipFile(drawn.with_suffix(".zip"), "w") as archive:
        archive.write(drawn, drawn.name)
    for path in (drawn, drawn.with_suffix(".zip")):
        truth = read_truth(path, ["a"], MPP)
        assert truth.nuclei.xy.tolist() == [[15, 15], [5, 6]]
        assert truth.outlines is truth.region is None


def test_outlines_and_regions_whose_lines_cross_are_repaired(drawn):
    bow = shapely.Polygon([(0, 0), (30, 30), (30, 0), (0, 60)])
    wide = shapely.transform(bow, lambda xy: xy * 10)
    write_features(drawn, feature(bow, "a", "detection"), feature(wide, "Region"))
    truth = read_truth(drawn, ["a"], MPP)
    assert truth.outlines[0].geom_type == "Polygon"
    assert truth.outlines[0].is_valid
    assert truth.outlines[0].contains(Point(truth.nuclei.xy[0]))
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


def test_a_region_from_a_file_of_its_own(drawn, tmp_path):
    area = feature(box(0, 0, 10, 20), "whatever")
    assert read_region(write_features(drawn, area), None, (5, 0)).bounds == (5, 0, 15, 20)
    write_features(drawn, area, feature(box(0, 0, 10, 5), "Ignore*"))
    assert read_region(drawn, None).bounds == (0, 5, 10, 20)
    mask = np.zeros((10, 20), np.uint8)
    mask[5:, :10] = 255
    cv2.imwrite(str(tmp_path / "r.png"), mask)
    assert read_region(tmp_path / "r.png", (200, 100)).bounds == (0, 50, 100, 100)


def test_children_of_an_annotation_are_nuclei(drawn):
    nuclei = [feature(box(x, 10, x + 10, 20), "a", "detection") for x in (10, 50)]
    nested = feature(box(40, 0, 90, 30), "Region*", childObjects=nuclei[1:])
    write_features(drawn, feature(box(0, 0, 100, 100), "Region*", childObjects=[nuclei[0], nested]))
    truth = read_truth(drawn, ["a", "b"], MPP)
    assert truth.nuclei.xy.tolist() == [[15, 15], [55, 15]]
    assert read_region(drawn, None).area == 100 * 100
