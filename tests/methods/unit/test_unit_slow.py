"""A reader trained without labels finds nuclei whose positions it was never shown."""

import subprocess

import pytest
import yaml
from test_unit import draw_tissue
from tiny_runs import UNIT as CONFIG

from experiments.unit_toy.run import run_arm

pytestmark = pytest.mark.timeout(1200)  # a training of two minutes, on a machine that may be busy


@pytest.mark.slow
def test_nuclei_of_drawn_tissue_are_found_without_labels(tmp_path):
    """The run has two thirds of the steps of the experiment in docs/results.md, which also has
    controls.
    """
    assert run_arm("whole", 0, 200, tmp_path)["head"] >= 60


@pytest.mark.slow
def test_two_processes_finish_every_stage(tmp_path):
    """Two runs of two processes each write the same bytes."""
    draw_tissue(tmp_path)
    (tmp_path / "unit.yaml").write_text(yaml.safe_dump(yaml.safe_load(CONFIG)))
    for name in ("one", "other"):
        command = (
            f"muse train unit.yaml -o {name} --accelerator cpu --threads 1 --devices 2".split()
        )
        subprocess.run(command, check=True, cwd=tmp_path)
    one, other = ((tmp_path / name / "checkpoint.pt").read_bytes() for name in ("one", "other"))
    assert one == other
