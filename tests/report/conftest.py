import json
import shutil

import pytest
from finished_slide import HOSTILE, row, write_ledger, write_slide


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """Results of a finished slide, written once per session; tests that change them must use a
    copy.
    """
    results = tmp_path_factory.mktemp("finished")
    return write_slide(results, "one")


@pytest.fixture
def slide_folder(finished, tmp_path):
    """A copy of a finished slide's folder, which a test may change."""
    return shutil.copytree(finished, tmp_path / "results/one")


@pytest.fixture(scope="session")
def cohort(tmp_path_factory):
    """A results folder and its resolved sheet, with slides of every status, one of them with a
    hostile name.
    """
    results = tmp_path_factory.mktemp("cohort") / "results"
    write_slide(
        results, "good", warnings=["the pixel is <odd>"], colour_warnings=["few stained pixels"]
    )
    write_slide(results, "with gaps", full_windows=[0, 4], corrupt=[(1100, 1100, 300, 300)])
    hostile = write_slide(results, HOSTILE)
    write_ledger(
        hostile,
        "detect",
        "failed",
        "model </script><b>: has no card; export it again",
        "detect-1-of-1",
    )
    for step in ("stitch", "geojson"):
        (hostile / f"ledger/{step}.json").unlink()
    write_ledger(
        results / "noise", "inspect", "failed", "noise.svs: no reader opens it; check the file"
    )
    sheet = results / "sheet.json"
    sheet.write_text(
        json.dumps([row(name) for name in ("good", "with gaps", HOSTILE, "noise")]),
        encoding="utf-8",
    )
    return results, sheet
