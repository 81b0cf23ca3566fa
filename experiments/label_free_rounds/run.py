"""What rounds of self-training add to a detector without labels, and what snapping its
pseudo-labels to edges adds.

    python -m experiments.label_free_rounds.run --data DATA --seeds 0  # trains and scores what is \
        not recorded
    python -m experiments.label_free_rounds.run --table                   # prints the table

An arm is `config/train/psm.yaml` with changed settings; the last round of the recipe with seed 0 is
the built-in `label_free`. The detectors of all rounds are scored at the threshold of the recipe,
with outlines snapped to edges. They are also scored by threshold on the points of every fourth
training picture of BRCA-M2C, which may be used to choose the threshold. The crops of TNBC and NuCLS
and the masks by Otsu's threshold are those of `unit_real`; no round is trained on TNBC or NuCLS. A
stopped run resumes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from experiments.common.crops import (
    SNAP_UM,
    aji,
    detection_f1,
    find_by_otsu,
    mean_of_seeds,
    network_finder,
    score,
)
from experiments.common.runs import TOP, run_arms, runs_of, with_interval
from muse_pipeline.core.pictures import read_rgb
from muse_pipeline.evaluation.detection import RADIUS_UM, match_points
from muse_pipeline.export.onnx import export_onnx
from muse_pipeline.inference.detect import detect_picture
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.methods.psm.run import PsmRecipe
from muse_pipeline.tissue.stain import fit_macenko
from muse_pipeline.training.recipe import load_run, train_run
from muse_pipeline.training.run import Options

RUNS = runs_of(__file__)
LEAST_SCORE, THRESHOLDS = (
    0.1,
    np.arange(0.2, 0.75, 0.05),
)  # minimum exported score; thresholds to compare
CHANGES = {  # changes to the settings of the recipe
    "recipe": (),
    "drawn": ("detector.export.snap_um=0",),
}
TITLES = {
    "recipe": "**`config/train/psm.yaml`**",
    "drawn": "pseudo-labels with outlines as the network draws them",
    "otsu": "Otsu on haematoxylin, cut into nuclei",
}
# Stages, and how many rounds of self-training each is trained with.
ROUNDS = {"detector": "none", "self-training-1": "1", "self-training-2": "2"}


def run_arm(arm: str, seed: int, args: argparse.Namespace) -> dict:
    """F1 of every round's detector on points of BRCA-M2C, by threshold, and its counts on TNBC
    and NuCLS.
    """
    cv2.setNumThreads(1)
    data = args.data.resolve()
    if arm == "otsu":
        return score(find_by_otsu, data)
    _, config = load_run(TOP / "config/train/psm.yaml", data, (*CHANGES[arm], f"seed={seed}"))
    folder, rounds, threshold = args.work / f"{arm}-{seed}", {}, config.detector.export.threshold
    for stage in ROUNDS:
        checkpoint = train_run(
            PsmRecipe(),
            config,
            folder,
            Options(accelerator="cpu", threads=1, log=print),
            until=stage,
        )
        model = checkpoint.with_name("model.onnx")
        export_onnx(checkpoint, model, threshold=LEAST_SCORE, snap_um=SNAP_UM)
        f1 = detection_by_threshold(Predictor(model), data / "brca-m2c")
        export_onnx(checkpoint, model, threshold=threshold, snap_um=SNAP_UM)
        rounds[stage] = {"f1_by_threshold": f1, **score(network_finder(Predictor(model)), data)}
    return {"threshold": threshold, "rounds": rounds}


def render_table(runs: list[dict]) -> str:
    """Table of the scores of every round, with 95 % intervals bootstrapped over patients."""
    (otsu,) = (run for run in runs if run["arm"] == "otsu")
    header = ["pseudo-labels", "rounds", "seeds", "points of BRCA-M2C, F1"]
    header += [
        f"{name}, {what}" for name in ("TNBC", "NuCLS") for what in ("F1 (95 %)", "AJI (95 %)")
    ]
    rows = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for arm, title in TITLES.items():
        of_arm = [run for run in runs if run["arm"] == arm]
        for stage, number in ROUNDS.items() if of_arm and arm in CHANGES else ():
            found = [run["rounds"][stage] for run in of_arm]
            f1 = [run["rounds"][stage]["f1_by_threshold"][str(run["threshold"])] for run in of_arm]
            rows.append(
                _render_row([title, number, str(len(of_arm)), f"{sum(f1) / len(f1):.1f}"], found)
            )
    rows.append(_render_row([TITLES["otsu"], "", "", ""], [otsu]))
    return "\n".join(rows)


def _render_row(cells: list[str], runs: list[dict]) -> str:
    for name in ("TNBC", "NuCLS"):
        values, patients, _ = mean_of_seeds(runs, name)
        cells = [
            *cells,
            *(with_interval(measure, values, patients) for measure in (detection_f1, aji)),
        ]
    return f"| {' | '.join(cells)} |"


def detection_by_threshold(predictor: Predictor, folder: Path) -> dict[float, float]:
    """Detection F1 in percent on every fourth training picture of BRCA-M2C, by score threshold."""
    counts = dict.fromkeys(THRESHOLDS.round(2).tolist(), np.zeros(3))
    for pixels, true in read_points(folder):
        found = detect_picture(
            predictor, pixels, predictor.card.mpp, fit_macenko(pixels.reshape(-1, 3))
        )
        for threshold in counts:
            kept = found[found.score >= threshold]
            matched = match_points(kept.xy, kept.score, true, RADIUS_UM / predictor.card.mpp) >= 0
            counts[threshold] = counts[threshold] + (matched.sum(), len(kept), len(true))
    return {
        threshold: round(float(200 * n / (found + true)), 2)
        for threshold, (n, found, true) in counts.items()
    }


def read_points(folder: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pixels and points (T, 2) of every fourth training picture of BRCA-M2C."""
    for name in sorted((folder / "train.txt").read_text().split())[::4]:
        (labels,) = (folder / "labels").glob(f"{Path(name).stem}*")
        yield read_rgb(folder / "images" / name), np.loadtxt(labels, ndmin=2)[:, [1, 0]]


if __name__ == "__main__":
    run_arms(__doc__, RUNS, tuple(TITLES), run_arm, render_table, reads_data=True)
