"""Steps must not load certain packages, because that would take longer than their work on a small
slide.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

STEPS = {
    "inspect": "muse_pipeline.slides.inspect",
    "tissue": (
        "muse_pipeline.tissue.find, muse_pipeline.tissue.colour, muse_pipeline.tissue.outline"
    ),
    "tile": "muse_pipeline.store.write",
    "stitch": "muse_pipeline.inference.stitch",
    "geojson": "muse_pipeline.qupath.write",
}


def test_steps_load_neither_pandas_nor_scipy():
    lines = ["import sys, muse_pipeline.cli.main"]
    for step, modules in STEPS.items():
        lines += [f"import muse_pipeline.steps, {modules}"]
        lines += [f"print({step!r}, *sorted({{'pandas', 'scipy'}} & sys.modules.keys()))"]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == list(STEPS)


def test_a_run_loads_neither_pandas_nor_zarr_nor_the_parts_of_scipy(coarse_slide, tmp_path):
    program = (
        "import sys, muse_pipeline.inference.region_lookup\nfrom muse_pipeline.cli.main import"
        " main; main(sys.argv[1:])\nprint(sorted({'pandas', 'zarr', 'scipy.ndimage',"
        " 'scipy.spatial', 'scipy.fft'} & sys.modules.keys()))"
    )
    command = [
        sys.executable,
        "-c",
        program,
        "run",
        str(coarse_slide / "demo.svs"),
        "-o",
        str(tmp_path / "results"),
    ]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1] == "[]"
    assert (
        tmp_path / "results/demo/artefacts.geojson"
    ).is_file()  # whose kinds were looked up in every part


def test_a_run_loads_its_templates_not_before_it_writes_its_report():
    program = (
        "import sys, muse_pipeline.cli.run_slides, muse_pipeline.report.page; print('jinja2' in"
        " sys.modules)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout
        == "False\n"
    )


def test_the_command_line_does_not_read_what_is_installed():
    program = "import sys, muse_pipeline.cli.main; print('importlib.metadata' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout
        == "False\n"
    )


@pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="counts threads as Linux shows them"
)
def test_a_step_starts_no_threads_to_multiply_matrices(tmp_path):
    arguments = [
        "step",
        "inspect",
        str(tmp_path / "none.svs"),
        "--slide-id",
        "none",
        "--output",
        str(tmp_path / "slide.json"),
    ]
    program = (
        "import os, sys; from muse_pipeline.cli.main import main; main(sys.argv[1:])\n"
        "print('numpy' in sys.modules, len(os.listdir('/proc/self/task')))"
    )
    environment = {
        name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"
    }
    command = [sys.executable, "-c", program, *arguments]
    printed = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment
    ).stdout
    assert printed == "True 1\n"
