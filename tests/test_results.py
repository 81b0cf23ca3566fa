"""The tables of docs/results/ are those of the committed runs."""

import runpy
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]


EXPERIMENTS = sorted(path for path in (TOP / "experiments").glob("*.py") if path.with_suffix("").is_dir())


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda path: path.stem)
def test_a_table_is_what_its_experiment_prints(experiment, monkeypatch, capsys):
    monkeypatch.syspath_prepend(experiment.parent)
    monkeypatch.setattr(sys, "argv", [str(experiment), "--table"])
    runpy.run_path(str(experiment), run_name="__main__")
    table = capsys.readouterr().out
    assert table.count("\n") > 2
    assert any(table in page.read_text(encoding="utf-8") for page in (TOP / "docs/results").glob("*.md"))
