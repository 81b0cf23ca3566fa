"""The time that each step of a cohort took, as text and in the report."""

import re
from pathlib import Path

import pytest

from muse_pipeline.cohort.ledgers import Cost, StepRecord, step_costs
from muse_pipeline.report.cohort import SlideResult
from muse_pipeline.report.page import steps_of, write_page


def slide(mm2: float | None, *records: StepRecord) -> SlideResult:
    return SlideResult("s", "s.svs", Path("s"), list(records), "ok", "", tissue_mm2=mm2)


@pytest.fixture
def slides():
    missing = StepRecord("stitch", "missing", "not reached because detect failed")
    slides = [
        slide(
            3.0,
            StepRecord("tile", "ok", "", 2.0, 3.0, 200),
            StepRecord("detect", "ok", "", 5.0, 9.5, 400),
        ),
        slide(
            1.0,
            StepRecord("tile", "ok", "", 1.0, 1.0, 300),
            StepRecord("detect", "failed", "x", 0.5, 0.5),
            missing,
        ),
    ]
    return slides


def test_the_steps_of_all_slides_are_added_up(slides):
    tile, detect = Cost("tile", 3.0, 4.0, 4.0, 300), Cost("detect", 5.5, 10.0, 4.0, 400)
    assert step_costs(map(steps_of, slides)) == [
        tile,
        detect,
        Cost("all", 8.5, 14.0, 4.0, 400),
    ]


def test_a_step_is_divided_by_the_tissue_in_which_it_ran(slides):
    skipped = slide(7.0, StepRecord("tile", "ok", "", 1.0, 2.0, 100))
    assert [cost.tissue_mm2 for cost in step_costs(map(steps_of, [*slides, skipped]))] == [
        11.0,
        4.0,
        11.0,
    ]


def test_without_a_step_there_is_nothing_to_divide():
    assert step_costs([steps_of(slide(None))]) == []


def test_the_report_has_the_same_table(slides, tmp_path):
    write_page(slides, tmp_path / "report.html")
    table = (
        (tmp_path / "report.html").read_text(encoding="utf-8").partition("Where the time went")[2]
    )
    assert re.findall(r'scope="row">(\w+)<', table) == ["tile", "detect", "all"]
    assert all(text in table for text in ("10.0 s", "2.500", "300 MiB"))
