"""Facts on the cohort's page about a pretraining run, whether or not the run has ended."""

from pathlib import Path

import pytest

from muse_pipeline.report.album import Album
from muse_pipeline.report.html import render
from muse_pipeline.report.page import pretraining_facts


@pytest.fixture
def folder(tmp_path) -> Path:
    """The folder of a finished run."""
    folder = tmp_path / "pretraining/own tissue"
    for name in ("cohort.yaml", "logs/pretrain.log", "checkpoint.pt", "views.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def facts_of(folder: Path) -> str:
    album = Album(folder.parents[1] / "report.html", embedded=False)
    return render("pretraining.html", pretraining=pretraining_facts(folder, album))


def test_the_files_of_the_run_are_linked(folder):
    output = facts_of(folder)
    assert 'href="pretraining/own%20tissue/views.png"' in output
    assert "curves.png" not in output  # the file does not exist
    assert "It has not ended" not in output


def test_a_run_that_has_not_ended_is_reported_with_its_log(folder):
    (folder / "cohort.yaml").touch()  # settings newer than the backbone
    assert "It has not ended" in facts_of(folder)
    (folder / "checkpoint.pt").unlink()
    assert "It has not ended" in facts_of(folder) and "logs/pretrain.log" in facts_of(folder)
    (folder / "logs/pretrain.log").unlink()
    assert "fix the slide, or list it in `pretrain.exclude`" in facts_of(folder)
