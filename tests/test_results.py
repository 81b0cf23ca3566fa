"""The tables of docs/results.md are those of the committed runs."""

import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]


EXPERIMENTS = sorted(path for path in (TOP / "experiments").glob("*.py") if path.with_suffix("").is_dir())


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda path: path.stem)
def test_a_table_is_what_its_experiment_prints(experiment):
    command = [sys.executable, str(experiment), "--table"]
    table = subprocess.run(command, capture_output=True, text=True, check=True, cwd=TOP).stdout
    assert table.count("\n") > 2
    assert table in (TOP / "docs/results.md").read_text(encoding="utf-8")
