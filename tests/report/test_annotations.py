"""Nuclei are counted in each annotation of a region of interest."""

import numpy as np
import pytest
import shapely
from finished_slide import draw_tissue, row, write_slide
from nuclei_example import draw_nuclei, write_example

from muse_pipeline.inference.counts import count_in_annotations
from muse_pipeline.nuclei.parquet import read_provenance
from muse_pipeline.report.cohort import judge_slide
from muse_pipeline.report.page import write_page
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


def test_the_page_has_the_table_of_a_slide_with_annotations_alone(slide, tmp_path):
    write_page(slide, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count('class="scroll annotations"') == 1
    assert "<bdi>Left &lt;half&gt;</bdi>" in text and "<bdi>Tumor</bdi>" in text


def test_nuclei_without_a_class_count_in_an_annotation(tmp_path):
    nuclei = draw_nuclei(200)
    path = write_example(tmp_path / "nuclei.parquet", nuclei)
    left = RoiAnnotation("left", None, shapely.box(0, 0, 20_000, 50_000), 1.0, 1.0)
    (counted,) = count_in_annotations(
        path, [left], read_provenance(path).classes, with_positive=False
    )
    label = nuclei.label[nuclei.xy[:, 0] < 20_000]
    assert counted["n_nuclei"] == len(label) > (label >= 0).sum()
    assert [*counted["n_by_class"].values()] == np.bincount(label[label >= 0], minlength=3).tolist()
