"""A reader trained without labels finds nuclei that were hidden from it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[3]


@pytest.mark.slow
def test_nuclei_of_drawn_tissue_are_found_without_labels(tmp_path):
    """Two thirds of the steps of the experiment; docs/results.md has its controls."""
    folders = ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path)]
    command = [sys.executable, TOP / "experiments/unit_toy.py", "--arms", "whole", "--seeds", "0", "--steps", "200"]
    subprocess.run([*command, *folders], check=True, cwd=TOP, stdout=subprocess.DEVNULL)
    found = json.loads((tmp_path / "whole-0.json").read_text())
    assert found["head"] >= 60
