"""Experiments: the tables of their pages match the recorded runs, and every script can be
imported.
"""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
SCRIPTS = sorted(path.relative_to(TOP) for path in (TOP / "experiments").rglob("*.py"))
PAGES = [*(TOP / "docs").rglob("*.md"), *(TOP / "experiments").glob("*/README.md")]
ELSEWHERE = "histomicstk_nuclei"  # runs in a separate environment
RECORDED = [
    *sorted((TOP / "experiments").glob("*/runs.jsonl")),
    TOP / "experiments/own_labels/minutes.jsonl",
]
IMPORT_ALL = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"


@pytest.mark.parametrize("runs", RECORDED, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_a_table_is_what_its_experiment_prints(runs, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run", "--table"])
    runpy.run_module(
        f"experiments.{runs.parent.name}.{runs.stem.replace('runs', 'run')}", run_name="__main__"
    )
    printed = capsys.readouterr().out.strip()
    pages = [page.read_text(encoding="utf-8") for page in PAGES]
    tables = [part for part in printed.split("\n\n") if part.startswith("|")]
    assert tables
    assert all(table.count("\n") > 1 and any(table in page for page in pages) for table in tables)


@pytest.mark.slow
def test_every_script_can_be_imported():
    names = [".".join(path.with_suffix("").parts) for path in SCRIPTS if path.stem != ELSEWHERE]
    beside_each_other = sorted(path.stem for path in (TOP / "benchmarks").glob("*.py"))
    paths = os.pathsep.join([str(TOP), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", IMPORT_ALL, *names, *beside_each_other]
    done = subprocess.run(
        command,
        check=False,
        cwd=TOP / "benchmarks",
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
