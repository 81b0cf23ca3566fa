"""Annotations of a region of interest: their names, their areas, and the tissue in each of them."""

import csv
import json

import numpy as np
import pytest
import shapely
from drawn import ArraySlide
from shapely.geometry import box

from muse_pipeline.core.errors import GeoJSONError, LeftOutWarning
from muse_pipeline.core.types import Bounds
from muse_pipeline.qupath.regions import read_annotations, read_class_areas, read_roi
from muse_pipeline.tissue.find import measure_annotation
from muse_pipeline.tissue.mask import RoiArea, TissueMask

INFO = ArraySlide([np.full((800, 1000, 3), 200, np.uint8)]).info((0.5, 0.5), bounds=Bounds(100, 50, 900, 750))


def write_roi(path, *features):
    """Write a file with an annotation for each (geometry, name, class)."""
    features = [
        {
            "type": "Feature",
            "geometry": json.loads(shapely.to_geojson(geometry)),
            "properties": {"objectType": "annotation", "name": name, "classification": kind and {"name": kind}},
        }
        for geometry, name, kind in features
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def area(name, *corners):
    return RoiArea(name, "Tumor", box(*corners), False)


def test_each_area_has_its_name_without_what_is_ignored(tmp_path):
    path = write_roi(
        tmp_path / "roi.geojson",
        (box(0, 0, 200, 100), "hot spot", "Tumor"),
        (box(100, 0, 150, 50), None, "Ignore*"),
        (box(100, 50, 300, 150), None, "Stroma"),
        (box(800, 600, 1000, 900), None, None),
        (box(-90, -40, -10, 0), "left of the scan", None),
        (box(5000, 0, 5100, 100), "off the slide", None),
    )
    with pytest.warns(LeftOutWarning, match=r"roi\.geojson: left out 1 annotation outside the slide$"):
        found = read_annotations(path, read_roi(path, INFO), INFO)
    assert [(area.name, area.class_name) for area in found] == [
        ("hot spot", "Tumor"),
        ("Stroma", "Stroma"),
        ("ROI 3", None),
        ("left of the scan", None),
    ]
    areas = [area.shape for area in found]
    assert areas[0].equals(box(100, 50, 300, 150) - box(200, 50, 250, 100))
    assert areas[1].equals(box(200, 100, 400, 200))  # annotations may share an area
    assert areas[2].equals(box(900, 650, 1000, 800))  # clipped to the slide
    off_slide = [(box(x, 0, x + 100, 100), None, "Tumor") for x in (5000, 6000)]
    with pytest.warns(LeftOutWarning, match=r"left out 2 annotations outside the slide$"):
        assert len(read_class_areas(write_roi(path, (box(0, 0, 200, 100), None, "Tumor"), *off_slide), INFO)) == 1


def test_areas_may_be_missing_but_not_damaged(tmp_path):
    path = tmp_path / "artefacts.geojson"
    assert read_class_areas(path, INFO, may_lack=True) == []
    assert read_class_areas(write_roi(path), INFO, may_lack=True) == []
    with pytest.raises(GeoJSONError, match="has no area with a class"):
        read_class_areas(path, INFO)
    path.write_bytes(write_roi(path, (box(0, 0, 200, 100), None, "Fold")).read_bytes()[:-9])
    with pytest.raises(GeoJSONError, match=r"artefacts\.geojson: "):
        read_class_areas(path, INFO, may_lack=True)


def test_each_tma_core_that_is_not_missing_is_an_area(tmp_path):
    path = write_roi(
        tmp_path / "roi.geojson",
        *((box(x, 0, x + 200, 200), name, None) for x, name in ((0, "A-1"), (300, "A-2"), (600, "A-3"))),
        (box(50, 50, 100, 100), None, "Tumor"),
        (box(0, 0, 20, 20), None, "Ignore*"),
    )
    content = json.loads(path.read_text())
    for feature, missing in zip(content["features"][:3], (False, True, False), strict=True):
        feature["properties"] |= {"objectType": "tmaCore", "isMissing": missing}
    path.write_text(json.dumps(content))
    roi = read_roi(path, INFO)
    assert roi.area == 2 * 200 * 200 - 400
    found = [(area.name, area.shape.area) for area in read_annotations(path, roi, INFO)]
    assert found == [("A-1", 39_600), ("A-3", 40_000), ("Tumor", 2_500)]
    content["features"] = content["features"][1:2]
    path.write_text(json.dumps(content))
    with pytest.raises(GeoJSONError, match=r"holds no polygon .* \(found: 1 missing TMA core\)"):
        read_roi(path, INFO)


def test_the_tissue_of_an_annotation_is_the_exact_share_of_the_mask():
    mask = np.zeros((50, 63), bool)
    mask[10:20, 10:30] = True
    tissue = TissueMask(mask, np.array([8.0, 8.0]), None, 0.0)
    annotation = measure_annotation(area("a", 200, 100, 400, 400), tissue, INFO)  # tissue: x 160-480, y 160-320
    assert annotation.area_mm2 == pytest.approx(200 * 300 * 0.25e-6)
    assert annotation.tissue_mm2 == pytest.approx(200 * 160 * 0.25e-6)
    assert measure_annotation(area("b", 500, 500, 600, 600), tissue, INFO).tissue_mm2 == 0


def test_annotations_come_back_from_the_file(tmp_path):
    mask = np.ones((10, 10), bool)
    plain = TissueMask(mask, np.array([8.0, 8.0]), None, 0.1)
    annotation = measure_annotation(area("nombre é", 0, 0, 100, 100), plain, INFO)
    TissueMask(mask, np.array([8.0, 8.0]), None, 0.1, annotations=(annotation,)).save(tmp_path / "tissue.npz")
    [found] = TissueMask.load(tmp_path / "tissue.npz").annotations
    assert found.to_dict() == annotation.to_dict()
    plain.save(tmp_path / "plain.npz")
    assert TissueMask.load(tmp_path / "plain.npz").annotations == ()


@pytest.mark.slow
def test_a_run_counts_the_nuclei_of_two_named_annotations(muse, tmp_path):
    assert muse("demo-slide", tmp_path, "--area-mm2", "0.3")[0] == 0
    halves = box(0, 0, 2400, 9000), box(2400, 0, 9000, 9000)
    roi = write_roi(tmp_path / "roi.geojson", (halves[0], "left", None), (halves[1], "right", "Tumor"))
    assert muse("run", tmp_path / "demo.svs", "--roi", roi, "-o", tmp_path / "out")[0] == 0
    rows = list(csv.DictReader((tmp_path / "out/roi.tsv").open(encoding="utf-8"), dialect="excel-tab"))
    cohort = next(csv.DictReader((tmp_path / "out/cohort.tsv").open(encoding="utf-8"), dialect="excel-tab"))
    assert [(row["roi"], row["class"]) for row in rows] == [("left", ""), ("right", "Tumor")]
    assert sum(int(row["nuclei"]) for row in rows) == int(cohort["nuclei"]) > 300
    assert all(int(row["nuclei"]) > 50 for row in rows)
    assert sum(float(row["tissue_mm2"]) for row in rows) == pytest.approx(float(cohort["tissue_mm2"]), abs=1e-4)
    assert "<bdi>right</bdi>" in (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert muse("run", tmp_path / "demo.svs", "-o", tmp_path / "out")[0] == 0
    assert not (tmp_path / "out/roi.tsv").exists()
