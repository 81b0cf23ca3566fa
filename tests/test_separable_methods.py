"""A method can be deleted: its folder, verb, recipe and tests are all that belongs to it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
COMPANIONS = ("mil", "psm", "trident", "unit")
COPIED = (
    *("muse_pipeline", "snakemake_logger_plugin_muse", "workflow", "config", "experiments"),
    *("tests", "Snakefile", "pyproject.toml"),
)
KEPT = (
    "tests/test_imports.py",
    "tests/models/test_region.py",
    "tests/contracts/test_methods.py::test_settings_name_the_method_and_are_documented",
    "tests/contracts/test_methods.py::test_every_recipe_in_config_is_of_a_method",
)
IMPORT_ALL = """
import importlib, pkgutil, muse_pipeline
names = [m.name for m in pkgutil.walk_packages(muse_pipeline.__path__, "muse_pipeline.")]
for name in names:
    importlib.import_module(name)
from muse_pipeline.training.recipe import RECIPES
print(*RECIPES.names())
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)  # half a minute on an idle core
def test_everything_else_works_without_the_companion_methods(tmp_path):
    """All other modules can be imported, and the tests of imports, settings and recipes pass."""
    for name in COPIED:
        copy = shutil.copytree if (TOP / name).is_dir() else shutil.copy
        copy(TOP / name, tmp_path / name)
    for method in COMPANIONS:
        (tmp_path / f"config/train/{method}.yaml").unlink()
        for folder in ("muse_pipeline/methods", "tests/methods"):
            shutil.rmtree(tmp_path / folder / method)
    (tmp_path / "muse_pipeline/cli/synthesize.py").unlink()  # the verb of UNIT
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
    found = subprocess.run([sys.executable, "-c", IMPORT_ALL], check=False, **run)
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == ["detector", "muse"]
    command = [*f"{sys.executable} -m pytest -q -x -p no:cacheprovider".split(), *KEPT]
    tested = subprocess.run(command, check=False, **run)
    assert tested.returncode == 0, tested.stdout[-3000:]
