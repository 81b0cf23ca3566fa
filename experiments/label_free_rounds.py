"""What each round of self-training adds to a detector without labels, and what the outlines of its labels are worth.

    git show 41578fbe:muse_pipeline/inference/built_in/label_free.onnx > runs/label_free_rounds/before.onnx
    python experiments/label_free_rounds.py --data DATA --seeds 0     # trains and scores what has no JSON yet
    python experiments/label_free_rounds.py --table                   # prints the table

An arm is `config/train/psm.yaml` with other settings; "before" is a model, the built-in one of that revision. The
detectors of all rounds are scored at the threshold of the recipe and with outlines on edges. Points of every fourth
training picture of BRCA-M2C are those that a threshold may be chosen by. TNBC, NuCLS and Otsu's threshold are those of
`unit_real.py`; no round reads either set. A stopped run goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
from arms import run_arms
from label_free_together import LEAST_SCORE, detection_by_threshold
from unit_real import RUNS as UNIT_RUNS
from unit_real import (
    SNAP_UM,
    TOP,
    aji,
    change_from,
    detection_f1,
    mean_of_seeds,
    network_finder,
    score,
    with_interval,
)

from muse_pipeline.core.files import read_json
from muse_pipeline.export.onnx import export_onnx
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.methods.psm.run import PsmRecipe
from muse_pipeline.training.recipe import load_run, train_run
from muse_pipeline.training.run import Options

RUNS = Path(__file__).parent / "label_free_rounds"
CHANGES = {  # of settings
    "recipe": (),
    "drawn": ("detector.export.snap_um=0",),
}
TITLES = {
    "recipe": "**`config/train/psm.yaml`**",
    "drawn": "pseudo-labels with outlines as the network draws them",
    "before": "`label_free` of revision 41578fbe",
}
ROUNDS = {"detector": "none", "self-training-1": "1", "self-training-2": "2"}  # stages, and rounds of self-training


def run_arm(arm: str, seed: int, args: argparse.Namespace) -> dict:
    """Of the detector of every round its F1 at points of BRCA-M2C by threshold, and its counts on both other sets."""
    cv2.setNumThreads(1)
    data = args.data.resolve()
    if arm == "before":
        return score(network_finder(Predictor(args.work / "before.onnx")), data)
    _, config = load_run(TOP / "config/train/psm.yaml", data, (*CHANGES[arm], f"seed={seed}"))
    folder, rounds, threshold = args.work / f"{arm}-{seed}", {}, config.detector.export.threshold
    for stage in ROUNDS:
        checkpoint = train_run(
            PsmRecipe(), config, folder, Options(accelerator="cpu", threads=1, say=print), until=stage
        )
        model = checkpoint.with_name("model.onnx")
        export_onnx(checkpoint, model, threshold=LEAST_SCORE, snap_um=SNAP_UM)
        f1 = detection_by_threshold(Predictor(model), data / "brca-m2c")
        export_onnx(checkpoint, model, threshold=threshold, snap_um=SNAP_UM)
        rounds[stage] = {"f1_by_threshold": f1, **score(network_finder(Predictor(model)), data)}
    return {"threshold": threshold, "rounds": rounds}


def render_table() -> str:
    """Scores of every round with 95 % intervals over patients; AJI also as a difference, paired by patient."""
    runs = [read_json(path) for path in sorted(RUNS.glob("*.json"))]
    otsu = read_json(UNIT_RUNS / "otsu-0.json")
    header = ["pseudo-labels", "rounds", "seeds", "points of BRCA-M2C, F1"]
    header += [f"{name}, {what}" for name in ("TNBC", "NuCLS") for what in ("F1 (95 %)", "AJI (95 %)", "AJI - Otsu")]
    rows = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for arm, title in TITLES.items():
        of_arm = [run for run in runs if run["arm"] == arm]
        for stage, number in ROUNDS.items() if of_arm and arm in CHANGES else ():
            found = [run["rounds"][stage] for run in of_arm]
            f1 = [run["rounds"][stage]["f1_by_threshold"][str(run["threshold"])] for run in of_arm]
            rows.append(_render_row([title, number, str(len(of_arm)), f"{sum(f1) / len(f1):.1f}"], found, otsu))
        if of_arm and arm not in CHANGES:
            rows.append(_render_row([title, "", "", ""], of_arm[:1], otsu))
    rows.append(_render_row(["Otsu on haematoxylin, cut into nuclei", "", "", ""], [otsu], otsu))
    return "\n".join(rows)


def _render_row(cells: list[str], runs: list[dict], otsu: dict) -> str:
    for name in ("TNBC", "NuCLS"):
        values, patients, _ = mean_of_seeds(runs, name)
        before, _, _ = mean_of_seeds([otsu], name)
        cells = [*cells, *(with_interval(measure, values, patients) for measure in (detection_f1, aji))]
        cells.append("" if runs == [otsu] else change_from(aji, before, values, patients))
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    run_arms(__doc__, RUNS, tuple(TITLES), run_arm, render_table, reads_data=True)
