"""An output of another package: the number of nuclei of each class, as text.

``install`` makes it one, with an entry point, for processes whose ``PYTHONPATH`` has the folder.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from muse_pipeline.core.setting import Setting
from muse_pipeline.outputs.base import OUTPUTS, FinishedSlide, Output


@OUTPUTS.register("toy")
class Toy(Output):
    """``toy.txt``."""

    name = "toy"
    files = ("toy.txt",)
    switch = Setting("toy", False, {"type": "boolean"}, "write `toy.txt` too", job="nuclei")
    settings = (Setting("toy_title", "nuclei", {"type": "string"}, "first line of `toy.txt`", job="nuclei"),)

    @classmethod
    def write(cls, slide: FinishedSlide) -> list[str]:
        """Write the title and the number of nuclei."""
        from muse_pipeline.nuclei.parquet import read_provenance

        n = read_provenance(slide.files.nuclei).n_nuclei
        (slide.files.folder / "toy.txt").write_text(f"{slide.settings['toy_title']}\n{n}\n", encoding="utf-8")
        return ["toy.txt has no classes"]


def install(folder: Path) -> None:
    """Make ``folder`` a place of installed packages with this module."""
    shutil.copy(__file__, folder / "toy_output.py")
    about = folder / "toy_output-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-output\nVersion: 1.0\n", encoding="utf-8")
    entry = "[muse_pipeline.outputs]\ntoy = toy_output:Toy\n"
    (about / "entry_points.txt").write_text(entry, encoding="utf-8")
