"""Nuclei are counted in each annotation of a region of interest."""

import csv

import numpy as np
import pytest
import shapely
from finished_slide import CLASSES, draw_tissue, row, write_slide

from muse_pipeline.core.files import read_json
from muse_pipeline.report.cohort import judge_slide
from muse_pipeline.report.page import write_page, write_roi_table
from muse_pipeline.tissue.mask import RoiAnnotation

# In level-0 px of 0.25 um; level 0 is the synthetic picture enlarged by a factor of two.
LEFT, RIGHT, MIDDLE = (
    shapely.box(0, 0, 1500, 2048),
    shapely.box(1500, 0, 3072, 2048),
    shapely.box(1200, 800, 1800, 1200),
)
ANNOTATIONS = (
    RoiAnnotation("Left <half>", "Tumor", LEFT, 0.192, 0.1),
    RoiAnnotation("right", None, RIGHT, 0.201216, 0.15),
    RoiAnnotation("middle", "Stroma", MIDDLE, 0.015, 0.0),
)


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    results = tmp_path_factory.mktemp("annotations")
    write_slide(results, "one", annotations=ANNOTATIONS, positive=draw_tissue()[2] == 1)
    write_slide(results, "other", draw_tissue((600, 500), 50))
    return judge_slide(results, row("one")), judge_slide(results, row("other"))


def test_nuclei_are_counted_by_class_in_every_annotation_that_they_lie_in(slide):
    _, xy, label = draw_tissue()
    found = read_json(slide[0].folder / "summary.json")["annotations"]
    assert [each["name"] for each in found] == ["Left <half>", "right", "middle"]
    for each, annotation in zip(found, ANNOTATIONS, strict=True):
        inside = shapely.contains_xy(annotation.geometry, 2 * xy)
        assert each["n_nuclei"] == inside.sum() > 10
        counts = np.bincount(label[inside], minlength=3).tolist()
        assert each["n_by_class"] == dict(zip(CLASSES, counts, strict=True)) and each["n_positive"] == counts[1]
    assert sum(each["n_nuclei"] for each in found[:2]) == slide[0].n_nuclei - (xy[:, 0] == 750).sum()


def test_the_table_has_a_row_for_each_with_densities_of_its_tissue(slide, tmp_path):
    path = tmp_path / "roi.tsv"
    write_roi_table(slide, path)
    rows = list(csv.DictReader(path.open(encoding="utf-8", newline=""), dialect="excel-tab"))
    found = slide[0].summary["annotations"]
    assert [(each["slide_id"], each["roi"], each["class"]) for each in rows] == [
        ("one", "Left <half>", "Tumor"),
        ("one", "right", ""),
        ("one", "middle", "Stroma"),
    ]
    for each, known in zip(rows[:2], found, strict=False):
        assert float(each["nuclei_per_mm2"]) == pytest.approx(known["n_nuclei"] / known["tissue_mm2"], rel=1e-3)
        assert int(each["n_positive"]) + int(each["n_negative"]) == int(each["nuclei"])
        for name in CLASSES:
            n = known["n_by_class"][name]
            assert int(each[f"nuclei_{name}"]) == n
            assert float(each[f"nuclei_per_mm2_{name}"]) == pytest.approx(n / known["tissue_mm2"], rel=1e-2)
    assert rows[2]["nuclei_per_mm2"] == ""  # it contains no tissue
    write_roi_table(slide[1:], path)
    assert not path.exists()


def test_the_page_has_the_table_of_a_slide_with_annotations_alone(slide, tmp_path):
    write_page(slide, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count('class="scroll annotations"') == 1
    assert "<bdi>Left &lt;half&gt;</bdi>" in text and "<bdi>Tumor</bdi>" in text
