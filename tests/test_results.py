"""Experiments: the tables of their pages match the recorded runs, and every script can be
imported.
"""

import io
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
SCRIPTS = sorted(path.relative_to(TOP) for path in (TOP / "experiments").rglob("*.py"))
PAGES = [*(TOP / "docs").rglob("*.md"), *(TOP / "experiments").glob("*/README.md")]
ELSEWHERE = "histomicstk_nuclei"  # runs in a separate environment
RECORDED = {
    f"experiments.{path.parent.name}.{path.stem.replace('runs', 'run')}": path
    for name in ("runs", "minutes")
    for path in sorted((TOP / "experiments").glob(f"*/{name}.jsonl"))
}
CURRENT = [name for name in RECORDED if (TOP / name.replace(".", "/")).with_suffix(".py").is_file()]
SETTLED = [name for name in RECORDED if name not in CURRENT]
IMPORT_ALL = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"
PRINT_ALL = """
import contextlib, io, json, runpy, sys
printed, names = {}, sys.argv[1:]
for name in names:
    sys.argv = ["run", "--table"]
    with contextlib.redirect_stdout(io.StringIO()) as output:
        runpy.run_module(name, run_name="__main__")
    printed[name] = output.getvalue()
print(json.dumps(printed))
"""


def require_on_pages(printed: str) -> None:
    """Require a page with each of the tables that an experiment prints."""
    pages = [page.read_text(encoding="utf-8") for page in PAGES]
    tables = [part for part in printed.strip().split("\n\n") if part.startswith("|")]
    assert tables
    assert all(table.count("\n") > 1 and any(table in page for page in pages) for table in tables)


@pytest.mark.parametrize("name", CURRENT)
def test_a_table_is_what_its_experiment_prints(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run", "--table"])
    runpy.run_module(name, run_name="__main__")
    require_on_pages(capsys.readouterr().out)


def revision_of(name: str) -> str:
    """The revision that a page names as that of an experiment's code."""
    script = name.replace(".", "/") + ".py"
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    revisions = set(re.findall(rf"git show (\w+):{re.escape(script)}", pages))
    assert len(revisions) == 1, f"no page, or several, name the revision of {script}"
    return revisions.pop()


@pytest.mark.parametrize("name", SETTLED)
def test_a_page_names_the_revision_of_code_that_left(name):
    revision = revision_of(name)
    if not has_object(revision):
        pytest.skip(f"the checkout has no revision {revision}")
    assert has_object(f"{revision}:{name.replace('.', '/')}.py")


def has_object(name: str) -> bool:
    """True if the history has a revision or one of its files."""
    return not subprocess.run(["git", "cat-file", "-e", name], check=False, cwd=TOP).returncode


@pytest.mark.slow
def test_tables_are_what_the_code_that_left_prints(tmp_path):
    """The code of the named revision prints the tables from the records of today."""
    for revision in sorted({revision_of(name) for name in SETTLED}):
        if not has_object(revision):
            pytest.skip(f"the checkout has no revision {revision}")
        names = [name for name in SETTLED if revision_of(name) == revision]
        command = ["git", "archive", revision, "experiments", "config", "muse_pipeline", "tests"]
        packed = subprocess.run(command, cwd=TOP, capture_output=True, check=True)
        folder = tmp_path / revision
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as files:
            files.extractall(folder, filter="data")
        for name in names:
            shutil.copy(RECORDED[name], folder / RECORDED[name].relative_to(TOP))
        command = [sys.executable, "-c", PRINT_ALL, *names]
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)
        for printed in json.loads(done.stdout).values():
            require_on_pages(printed)


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
