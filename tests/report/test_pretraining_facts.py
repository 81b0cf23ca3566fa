"""What the cohort's page states of a pretraining, however far that came."""

import os
from pathlib import Path

import pytest

from muse_pipeline.core.files import write_json
from muse_pipeline.report.album import Album
from muse_pipeline.report.html import render
from muse_pipeline.report.model_facts import pretraining_facts

SENTENCE = "Without labels: yes. 61.0 % of nuclei <at 0.5> are found again."


@pytest.fixture
def folder(tmp_path) -> Path:
    """A run that ended and was compared."""
    folder = tmp_path / "pretraining" / "own tissue"
    for name in (
        "cohort.yaml",
        "logs/pretrain.log",
        "logs/compare.log",
        "checkpoint.pt",
        "compare/compare.html",
        "views.png",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    answers = [{"where": "Without labels", "verdict": "yes", "sentence": SENTENCE}]
    write_json(folder / "compare" / "compare.json", {"answers": answers})
    return folder


def facts_of(folder: Path) -> str:
    album = Album(folder.parents[1] / "report.html", embedded=False)
    return render("pretraining.html", pretraining=pretraining_facts(folder, album))


def test_the_answer_stands_there_with_the_way_to_its_page(folder):
    output = facts_of(folder)
    assert SENTENCE.replace("<", "&lt;").replace(">", "&gt;") in output
    assert 'class="answer yes"' in output
    for name in ("compare/compare.html", "views.png"):
        assert f'href="pretraining/own%20tissue/{name}"' in output
    assert "curves.png" not in output  # which is not there


def test_what_is_missing_is_reported_and_an_older_answer_is_none(folder):
    os.utime(folder / "compare" / "compare.json", ns=(0, 0))
    output = facts_of(folder)
    assert SENTENCE[:20] not in output and "Whether it helped is not known" in output
    assert "logs/compare.log" in output
    (folder / "cohort.yaml").touch()  # other settings than the backbone's
    assert "It has not ended" in facts_of(folder)
    (folder / "checkpoint.pt").unlink()
    assert "It has not ended" in facts_of(folder) and "logs/pretrain.log" in facts_of(folder)
    (folder / "logs" / "pretrain.log").unlink()
    assert "fix them, or list them in `pretrain.exclude`" in facts_of(folder)
