"""Tables of nuclei of small slides, and the truth that they are scored by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from nuclei_example import write_table

from muse_pipeline.core.files import write_json
from muse_pipeline.core.types import Frame
from muse_pipeline.nuclei.table import Nuclei

CLASSES = ("Dark", "Pale")
MPP = (0.25, 0.25)
XY = np.array([(100, 100), (200, 100), (300, 100), (400, 100)], float)
# 2 right, 1 wrong class, 1 missed
TRUTH = "x,y,class\n100,100,Dark\n204,100,Pale\n300,100,Pale\n700,700,Dark\n"


def write_result(
    folder, slide_id, xy=XY, label=(0, 1, 0, 1), size_px=(1000, 1000), bounds=None, **output
):
    """Write a slide's table of nuclei with a radius of 3 um, and its slide.json."""
    nuclei = Nuclei(
        xy, Frame.LEVEL0, np.full((len(xy), 32), 3.0), label, np.linspace(0.9, 0.5, len(xy))
    )
    classes = [{"name": name, "color": [0, 0, 0]} for name in CLASSES]
    card = {"classes": classes, "threshold": 0.4}
    facts = {"slide_id": slide_id, "fingerprint": "ab", "bounds": bounds, "card": card, **output}
    path = folder / slide_id / "nuclei.parquet"
    nuclei.prob = np.eye(2, dtype=np.float32)[nuclei.label]
    write_table(path, nuclei, CLASSES, MPP, **facts)
    if size_px:
        write_json(path.with_name("slide.json"), {"size_px": size_px})
    return path


def draw_results(folder: Path) -> None:
    """Write ``results`` of slides a, b and c, and ``truth`` of slides a, b and d."""
    for name in "abc":
        write_result(folder / "results", name)
    (folder / "truth").mkdir()
    for name in "abd":
        (folder / f"truth/{name}.csv").write_text(TRUTH)
