"""A separate distribution adds plug-ins of every kind through entry points."""

import os
import subprocess
import sys

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


def test_every_kind_of_plug_in_is_found(tmp_path):
    registered = [
        f"import {module}\n{module}.{registry}.register('toy')(Toy)\n"
        for module, registry in KINDS.values()
    ]
    (tmp_path / "toys.py").write_text("class Toy: ...\n" + "".join(registered))
    about = tmp_path / "toys-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
    points = [f"[{group}]\ntoy = toys\n" for group in KINDS]
    (about / "entry_points.txt").write_text("".join(points))
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    names = [":".join(kind) for kind in KINDS.values()]
    command = [sys.executable, "-c", PRINT_KINDS, *names]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert found.stdout.split() == ["True"] * 2 * len(KINDS), found.stderr
