"""An installation without the extra `train`: what works, and the messages about what does not
work.
"""

import subprocess
import sys

from workflow_runs import draw_stained_slide

BLOCK = """
import sys
for name in ("torch", "lightning_fabric", "onnx", "onnxscript", "matplotlib", "skimage"):
    sys.modules[name] = None
"""


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", BLOCK + code], check=False, capture_output=True, text=True
    )


def test_proposers_without_a_network_need_no_torch():
    done = python("""
from muse_pipeline.proposals import PROPOSERS
for method in ("haematoxylin", "imported"):
    print(method, PROPOSERS[method].Settings)
PROPOSERS["importd"]
""")
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        "haematoxylin",
        "imported",
    ], done.stderr
    assert "unknown proposer 'importd'; did you mean 'imported'?" in done.stderr


def test_a_verb_that_trains_names_the_extra(tmp_path):
    config = tmp_path / "a.yaml"
    config.write_text("name: a\n")
    commands = [
        f"{verb} {config} -o {tmp_path / 'out'}".split() for verb in ("psm", "finetune", "export")
    ]
    done = python(
        "from muse_pipeline.cli.main import main; print([main(command) for command in"
        f" {commands!r}])"
    )
    assert done.stdout == "[2, 2, 2]\n", done.stderr
    lines = done.stderr.splitlines()
    assert [line.split(":")[0] for line in lines] == ["muse psm", "muse finetune", "muse export"]
    assert all("not installed; install the extra `train`" in line for line in lines)


def test_a_run_needs_none_of_the_other_extras(tmp_path):
    draw_stained_slide(tmp_path / "a.tif", size_px=500, n_nuclei=60)
    words = f"run {tmp_path / 'a.tif'} -o {tmp_path / 'r'} --threads 1".split()
    done = python(f"""
for name in ("snakemake", "geopandas", "pandas", "anndata", "h5py", "zarr"):
    sys.modules[name] = None
from muse_pipeline.cli.main import main
print(main({words!r}))
import muse_pipeline
try:
    muse_pipeline.read_nuclei
except muse_pipeline.MuseError as error:
    print(error)
""")
    assert done.stdout.splitlines()[-2:] == [
        "0",
        "muse_pipeline.read_nuclei: needs the package 'geopandas', which is not installed; install"
        " the extra `geo`",
    ], done.stderr
