"""The built-in models and HistomicsTK with its defaults, on pictures that the models were not
trained on.

    python -m experiments.peers.run --data DATA  # scores what is not recorded
    python -m experiments.peers.run --data DATA --histomicstk PYTHON  # also HistomicsTK, in a \
        Python that has it
    python -m experiments.peers.run --table                                # prints the table

`compact` was trained on TNBC and NuCLS, so it is not scored there; its refining network was trained
on DSB-2018, so its outlines are not refined. `label_free` was trained on pixels of DSB-2018.
HistomicsTK gets the pictures at 0.5 um/px. In NuInsSeg only images with odd numbers are scored,
which `compact` was not trained on. The masks of this set are binary: true nuclei are the components
that show a single nucleus, and detections in other components are not counted. DATA is a folder
with tnbc-nuclei/, nucls-cc0/, dsb2018-brightfield/ and nuinsseg-oesophagus/.
"""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import tempfile
from pathlib import Path

import cv2
import numpy as np

from experiments.common.crops import (
    MPP,
    Crop,
    aji,
    detection_f1,
    network_finder,
    read_crops,
    score_crops,
)
from experiments.common.runs import add_run, is_recorded, read_runs, runs_of, with_interval
from muse_pipeline.core.pictures import write_png
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor

RUNS = runs_of(__file__)
TITLES = {
    "tnbc": "breast, TNBC",
    "nucls": "breast, NuCLS",
    "dsb2018": "several organs in violet stains, DSB-2018",
    "nuinsseg": "oesophagus, NuInsSeg",
}
MODELS = {
    "compact": ("dsb2018", "nuinsseg"),
    "label_free": ("tnbc", "nucls", "nuinsseg"),
}  # the sets that each model was not trained on
PEER = "HistomicsTK"


def main() -> None:
    """Score what is not recorded, or print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument(
        "--histomicstk", metavar="PYTHON", help="Python with the package histomicstk"
    )
    parser.add_argument("--table", action="store_true", help="print the table of the recorded runs")
    args = parser.parse_args()
    if args.table:
        print(render_table(read_runs(RUNS)))
        return
    for name in TITLES:
        finders = {
            model: network_finder(as_drawn(model))
            for model, unread in MODELS.items()
            if name in unread
        }
        missing = [model for model in finders if not is_recorded(RUNS, set=name, model=model)]
        is_peer_missing = args.histomicstk and not is_recorded(RUNS, set=name, model=PEER)
        crops = read_crops(args.data, name) if missing or is_peer_missing else []
        for model in missing:
            add_run(
                RUNS,
                {
                    "set": name,
                    "model": model,
                    **score_crops([finders[model](crop[2]) for crop in crops], crops),
                },
            )
        if is_peer_missing:
            add_run(
                RUNS,
                {
                    "set": name,
                    "model": PEER,
                    **score_crops(run_histomicstk(args.histomicstk, crops), crops),
                },
            )


def as_drawn(model: str) -> Predictor:
    """A built-in model without its refining network, if it has one."""
    predictor = Predictor(find_model(model))
    if predictor.refiner:
        predictor.card, predictor.refiner = dataclasses.replace(predictor.card, refine=False), None
    return predictor


def run_histomicstk(python: str, crops: list[Crop]) -> list[np.ndarray]:
    """The label image of each crop found by HistomicsTK, run by the interpreter ``python``."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in", Path(folder) / "out"
        source.mkdir()
        for name, _, pixels, *_ in crops:
            size = tuple(round(side * MPP / 0.5) for side in pixels.shape[1::-1])
            write_png(
                source / f"{name}.png", cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
            )
        script = Path(__file__).with_name("histomicstk_nuclei.py")
        subprocess.run([python, script, source, target], check=True)
        found = []
        for name, _, pixels, *_ in crops:
            labels = cv2.imread(str(target / f"{name}.png"), cv2.IMREAD_UNCHANGED)
            whole = cv2.resize(labels, pixels.shape[1::-1], interpolation=cv2.INTER_NEAREST)
            found.append(whole.astype(np.int32))
        return found


def render_table(runs: list[dict]) -> str:
    """The table of detection F1 and AJI with intervals bootstrapped over patients."""
    rows = [
        "| pictures | crops | model | detection F1 (95 %) | AJI (95 %) |",
        "|---|---|---|---|---|",
    ]
    for name, title in TITLES.items():
        for run in (run for run in runs if run["set"] == name):
            counts = np.array(run["counts"], float)
            cells = [
                with_interval(measure, counts, run["patients"]) for measure in (detection_f1, aji)
            ]
            rows.append(f"| {title} | {len(counts)} | {run['model']} | {' | '.join(cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    cv2.setNumThreads(1)
    main()
