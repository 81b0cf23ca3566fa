"""A separate distribution adds plug-ins of every kind through entry points."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

SUPPORT = Path(__file__).parents[1] / "support"
KINDS = {
    "muse_pipeline.methods": ("muse_pipeline.training.recipe", "RECIPES"),
    "muse_pipeline.inference.families": ("muse_pipeline.inference.families", "FAMILIES"),
    "muse_pipeline.outputs": ("muse_pipeline.outputs.base", "OUTPUTS"),
    "muse.readers": ("muse_pipeline.slides.base", "READERS"),
    "muse_pipeline.labels.layouts": ("muse_pipeline.labels.layouts", "LAYOUTS"),
    "muse_pipeline.models": ("muse_pipeline.models", "BACKBONES"),
    "muse_pipeline.proposals": ("muse_pipeline.proposals", "PROPOSERS"),
}
PRINT_KINDS = """
import importlib, sys
for name in sys.argv[1:]:
    module, _, registry = name.rpartition(":")
    registry = getattr(importlib.import_module(module), registry)
    print("toy" in registry.names(), registry["toy"] is importlib.import_module("toys").Toy)
"""


def install(folder: Path, groups: dict[str, str]) -> dict[str, str]:
    """Write a distribution with an entry point per group; return the environment that finds it."""
    about = folder / "toys-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
    points = [f"[{group}]\ntoy = {module}\n" for group, module in groups.items()]
    (about / "entry_points.txt").write_text("".join(points))
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def run(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess:
    words = [sys.executable, *map(str, command)]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)


def test_every_kind_of_plug_in_is_found(tmp_path):
    registered = [
        f"import {module}\n{module}.{registry}.register('toy')(Toy)\n"
        for module, registry in KINDS.values()
    ]
    (tmp_path / "toys.py").write_text("class Toy: ...\n" + "".join(registered))
    environment = install(tmp_path, dict.fromkeys(KINDS, "toys"))
    names = [":".join(kind) for kind in KINDS.values()]
    found = run(environment, "-c", PRINT_KINDS, *names)
    assert found.stdout.split() == ["True"] * 2 * len(KINDS), found.stderr


def test_a_method_of_another_distribution_reads_its_config(tmp_path):
    environment = install(tmp_path, {"muse_pipeline.methods": "toy_sum"})
    environment["PYTHONPATH"] += f"{os.pathsep}{SUPPORT}"
    config = {"method": "toy_sum", "name": "x", "schedul": {}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    train = f"-m muse_pipeline.cli.main train {tmp_path / 'c.yaml'} -o {tmp_path / 'run'}".split()
    ended = run(environment, *train)
    assert ended.returncode == 2 and "did you mean 'schedule'" in ended.stderr
