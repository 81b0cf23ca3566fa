"""Experiments: the tables of their pages match the recorded runs, and every script can be imported."""

import ast
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
SCRIPTS = sorted(path.relative_to(TOP) for path in (TOP / "experiments").rglob("*.py"))
PAGES = [*(TOP / "docs").rglob("*.md"), *(TOP / "experiments").glob("*/README.md")]
ELSEWHERE = "histomicstk_nuclei"  # runs in a separate environment
RECORDED = sorted((TOP / "experiments").glob("*/runs.jsonl"))
IMPORT_ALL = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"


@pytest.mark.parametrize("runs", RECORDED, ids=lambda path: path.parent.name)
def test_a_table_is_what_its_experiment_prints(runs, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run", "--table"])
    runpy.run_module(f"experiments.{runs.parent.name}.run", run_name="__main__")
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


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_an_experiment_imports_no_other(script):
    found = ast.walk(ast.parse((TOP / script).read_text(encoding="utf-8")))
    modules = {
        node.module.split(".")[1] for node in found if getattr(node, "module", None) and "experiments." in node.module
    }
    assert modules <= {"common", script.parts[1]}


def test_a_benchmark_imports_no_experiment():
    """`python benchmarks/NAME.py` can only import from its own folder and from installed packages."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in (TOP / "benchmarks").glob("*.py")}
    assert [name for name, text in texts.items() if re.search(r"^(from|import) experiments\b", text, re.M)] == []


def test_commands_of_pages_name_scripts_that_exist():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r"python -m (experiments\.[\w.]+)", text):
            assert (TOP / name.replace(".", "/")).with_suffix(".py").is_file(), f"{page}: {name}"
        for name in re.findall(r"(?:experiments|benchmarks)/[\w/]+\.py", text):
            assert (TOP / name).is_file(), f"{page}: {name}"
