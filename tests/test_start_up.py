"""What a step of a slide need not load: it would take longer than the step's work on a small slide."""

import subprocess
import sys

import pytest

STEPS = {
    "inspect": "muse_pipeline.slides.inspect",
    "tissue": "muse_pipeline.tissue.find, muse_pipeline.tissue.colour, muse_pipeline.tissue.outline",
    "tile": "muse_pipeline.tiles.write",
    "stitch": "muse_pipeline.inference.stitch",
    "geojson": "muse_pipeline.nuclei.geojson",
}


@pytest.mark.parametrize("step", STEPS)
def test_a_step_loads_neither_pandas_nor_scipy(step):
    program = (
        f"import sys, muse_pipeline.cli.main, muse_pipeline.cli.{step}, {STEPS[step]}\n"
        "print(sorted({'pandas', 'scipy'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_command_line_does_not_read_what_is_installed():
    program = "import sys, muse_pipeline.cli.main; print('importlib.metadata' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "False\n"
    )
