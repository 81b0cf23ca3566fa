"""The scripts of benchmarks/: that none of them names something that the package no longer has."""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "benchmarks"
IMPORT_ALL = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"


def test_every_benchmark_can_be_imported():
    names = sorted(path.stem for path in FOLDER.glob("*.py"))
    assert "graph_time" in names
    command = [sys.executable, "-c", IMPORT_ALL, *names]
    done = subprocess.run(command, check=False, cwd=FOLDER, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
