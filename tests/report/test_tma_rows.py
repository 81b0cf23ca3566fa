"""The rows for cores of a tissue microarray in the tables and the report."""

from dataclasses import replace

import numpy as np
import pytest
from finished_slide import row, write_slide

from muse_pipeline.cohort.collect import write_sheet
from muse_pipeline.cohort.layout import SlideFiles
from muse_pipeline.cohort.sheet import SheetRow, read_sheet
from muse_pipeline.core.files import read_json, read_tsv
from muse_pipeline.qupath.regions import read_cores, write_cores
from muse_pipeline.report.cohort import judge_slide
from muse_pipeline.report.page import write_page
from muse_pipeline.report.tables import write_table
from muse_pipeline.slides.inspect import read_info
from muse_pipeline.tissue.tma import Core

CORES = (
    Core("A-1", (250.0, 250.0), False),
    Core("A-2", (500.0, 250.0), False),
    Core("B-1", (250.0, 450.0), True),
)


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    results = tmp_path_factory.mktemp("tma")
    files = SlideFiles(write_slide(results, "one"))
    write_cores(files.tma, CORES, 100, read_info(files.info))
    return judge_slide(results, row("one", patient="P"))


def read(path):
    return read_tsv(path)


def test_cores_of_the_file_are_read_back(slide):
    found, missing = read_cores(SlideFiles(slide.folder).tma, slide.info)
    assert [each.name for each in found] == ["A-1", "A-2"] and missing == ["B-1"]
    um = [np.multiply(each.shape.centroid.coords[0], slide.info.mpp) for each in found]
    np.testing.assert_allclose(um, [core.centre_um for core in CORES[:2]], atol=0.1)
    features = read_json(SlideFiles(slide.folder).tma)["features"]
    assert {each["properties"]["objectType"] for each in features} == {"tmaCore"}


def test_a_column_core_of_the_sheet_stands_beside_the_cores(slide, tmp_path):
    write_table([replace(slide, own={"core": "F-9"})], tmp_path / "cohort.tsv")
    first, second, *_ = read(tmp_path / "cohort.tsv")
    assert (first["core"], first["sheet_core"]) == ("", "F-9") and second["core"] == "A-1"


def test_the_report_shows_the_cores(slide, tmp_path):
    write_page([slide], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<dt>Cores</dt>" in text and "2 <small>missing: B-1</small>" in text
    assert "<bdi>A-1</bdi>" in text


def test_a_sheet_of_cores_keeps_patients_rois_and_columns_of_a_map(tmp_path):
    (tmp_path / "a.svs").touch()
    (tmp_path / "a_A-1.geojson").touch()
    own = {"core": "A-1", "grade": "3"}
    path, roi = str(tmp_path / "a.svs"), str(tmp_path / "a_A-1.geojson")
    written = SheetRow("a_A-1", path, patient="P1", roi=roi, own=own)
    write_sheet(tmp_path / "cores.tsv", [written])
    assert (tmp_path / "cores.tsv").read_text().splitlines()[
        1
    ] == "a_A-1\ta.svs\tP1\ta_A-1.geojson\t\t\tA-1\t3"
    assert read_sheet(tmp_path / "cores.tsv") == [written]
