"""The recipe of `compact` without a site of BRCA-M2C: its scores at that site, and what its stages
add.

    python -m experiments.compact.run --data DATA --seeds 0    # trains what is not recorded
    python -m experiments.compact.run --table                  # prints the tables

Every run leaves out a site, the labels of NuCLS, and the patients 01, 02 and 04 of TNBC, and is
scored on them; "scratch", "muse" and "grown" use nothing of TNBC. Stages are those of
`config/train/compact.yaml`. "scratch" is trained from random weights as `wide` for 2,500 steps
(half an hour on one core), and "muse", which can no longer be repeated, from a backbone pretrained
by MUSE. "hand" continues "scratch" for 1,500 steps as `outlines`, with hand-drawn outlines;
"grown" does the same, but only on BRCA-M2C, with outlines grown around its points. "filled"
continues "hand", which is also its teacher, for 2,000 steps as `distilled`. "narrow" is trained
from random weights as `narrow` for 5,000 steps, with "hand" as its teacher, and "narrow_filled",
the kind of network that is shipped, continues it for 2,000 steps with "filled" as its teacher.
Outlines are not refined by a second network. DATA is a folder with brca-m2c/, nucls-cc0/ and
tnbc-nuclei/. A stopped run resumes.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np

from experiments.common.crops import aji, detection_f1, read_nucls, read_tnbc, score_outlines
from experiments.common.runs import TOP, by_arm_and_seed, run_arms, runs_of
from experiments.common.sites import export_fold, score_site, split_sources
from experiments.common.training import finetune
from muse_pipeline.data.windows import continue_mirrored
from muse_pipeline.evaluation.bootstrap import compare_scores, percentile_interval, resample_sums
from muse_pipeline.evaluation.detection import DetectionCounts
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.labels.labelled_image import LabelledImage
from muse_pipeline.methods.detector import data as detector_data
from muse_pipeline.methods.detector.run import load_detector_config
from muse_pipeline.training.run import Options

RUNS = runs_of(__file__)
RECIPE = TOP / "config/train/compact.yaml"
SITES, SHIPPED = ("A7", "A8", "AC"), "narrow_filled"
TITLES = {
    "scratch": "random weights",
    "muse": "MUSE's backbone",
    "grown": "grown outlines",
    "hand": "drawn outlines",
    "filled": "own teacher",
    "narrow": "narrow",
    SHIPPED: "narrow",
}
COMPARED = {  # pairs of arms, and the sites at which they are compared
    ("scratch", "muse"): ("A7",),
    ("grown", "hand"): SITES,
    ("hand", "filled"): SITES,
    ("filled", SHIPPED): SITES,
}
ARMS = [f"{arm}-{site}" for arm in TITLES if arm != "muse" for site in SITES]
UNREAD = ("01", "02", "04")  # patients of TNBC that no arm is trained on
WITHOUT_UNREAD = f"sources.2.exclude={[f'{patient}_' for patient in UNREAD]}"
TEACHERS = {"narrow": "hand", "filled": "hand", SHIPPED: "filled"}
CLASSES = {  # functions of summed counts (..., C + 1, 3)
    "mean class F1": lambda counts: DetectionCounts(counts).mean_class_f1,
    "detection F1": lambda counts: DetectionCounts(counts).f1[..., 0],
}
OUTLINES = {
    "AJI": lambda counts: 100 * aji(counts),
    "detection F1": lambda counts: 100 * detection_f1(counts),
}
SCORED = {"site": ("the site", CLASSES), "tnbc": ("TNBC", OUTLINES), "nucls": ("NuCLS", OUTLINES)}


def run_arm(arm: str, seed: int, args: argparse.Namespace) -> dict:
    """Train an arm and return its ``score``."""
    cv2.setNumThreads(1)
    data, work = args.data.resolve(), args.work.resolve()
    return score(train(arm, seed, data, work), arm.split("-")[1], data, work / f"{arm}-{seed}")


def train(arm: str, seed: int, data: Path, work: Path) -> Path:
    """The checkpoint of an arm, which is trained unless it exists."""
    kind, site = arm.split("-")
    if kind == "scratch":
        stage, changes = "wide", ("schedule.steps=2500", "export.threshold=0.4")
    elif kind in ("grown", "hand"):
        stage, changes = "outlines", (WITHOUT_UNREAD, "schedule.steps=1500", "export.snap_um=0")
        changes = *changes, f"checkpoint={train(f'scratch-{site}', seed, data, work)}"
    else:
        stage, changes = distil(kind, site, seed, data, work)
    changes = f"stage={stage}", f"seed={seed}", "export.refine=false", *changes
    config = load_detector_config(RECIPE, data, changes)
    known, _ = split_sources(config, site)
    if kind == "grown":
        known = tuple(dataclasses.replace(source, grow_outlines=True) for source in known)
    elif kind != "scratch":
        known = (*known, *(source for source in config.sources if source.format == "masks"))  # TNBC
    detector_data.continue_mirrored = (
        continue_mirrored if kind.endswith("filled") else continue_smallest
    )
    config = dataclasses.replace(config, sources=known)
    return finetune(config, work / f"{arm}-{seed}", Options(accelerator="cpu", threads=1))


def distil(kind: str, site: str, seed: int, data: Path, work: Path) -> tuple[str, tuple[str, ...]]:
    """Stage of an arm that has a teacher, and changes to its settings."""
    teacher = train(f"{TEACHERS[kind]}-{site}", seed, data, work)
    changes = WITHOUT_UNREAD, "export.snap_um=0", f"distillation.teachers=[{teacher}]"
    if kind == "narrow":
        return "narrow", (
            *changes,
            "schedule.steps=5000",
            "distillation.share=0.5",
            "sources.2.weight=3",
        )
    start = train(f"narrow-{site}", seed, data, work) if kind == SHIPPED else teacher
    stage = "narrow" if kind == SHIPPED else "distilled"
    return stage, (*changes, "schedule.steps=2000", f"checkpoint={start}", "sources.2.weight=2")


def continue_smallest(image: LabelledImage, window_px: int, mpp: float) -> LabelledImage:
    """Continue a picture by its mirror images if it is smaller than half a window; return a larger
    one unchanged.
    """
    return (
        image
        if 2 * min(image.pixels.shape[:2]) >= window_px
        else continue_mirrored(image, window_px, mpp)
    )


def score(checkpoint: Path, site: str, data: Path, folder: Path) -> dict:
    """For each of ``SCORED``: ``patients``, a name per picture, and ``counts``, the counts of each
    picture.
    """
    config = load_detector_config(RECIPE, data)
    predictor = Predictor(export_fold(checkpoint, folder))
    _, judged = split_sources(config, site)
    return {
        "site": score_site(predictor, judged, config),
        "tnbc": score_outlines(predictor, read_tnbc(data)),
        "nucls": score_outlines(predictor, read_nucls(data)),
    }


def render(recorded: list[dict]) -> str:
    """Tables of the recipe's scores, and of the changes by its stages."""
    runs = by_arm_and_seed(recorded)
    measures = [f"{title}: {measure}" for title, of in SCORED.values() for measure in of]
    header = f" | {' | '.join(measures)} |\n" + "|---" * (1 + len(measures))
    rows = [render_scores(runs[f"{SHIPPED}-{site}", 0]) for site in SITES]
    means = [f"**{np.mean([values[n] for values, _ in rows]):.1f}**" for n in range(len(measures))]
    table = ["| left out" + header + "|"]
    table += [
        f"| {site} | {' | '.join(cells)} |" for site, (_, cells) in zip(SITES, rows, strict=True)
    ]
    table.append(f"| mean | {' | '.join(means)} |")
    changes = [
        "| change | left out | mean class F1 | TNBC: AJI | NuCLS: AJI |",
        "|---|---|---|---|---|",
    ]
    for pair, sites in COMPARED.items():
        first, second = (TITLES[arm] for arm in pair)
        for site in sites:
            changes.append(
                f"| {first} -> {second} | {site} | {' | '.join(render_changes(runs, pair, site))} |"
            )
    return "\n".join([*table, "", *changes])


def render_scores(run: Mapping[str, dict]) -> tuple[list[float], list[str]]:
    """Scores of a run in percent, as numbers and as text with 95 % intervals bootstrapped over
    patients.
    """
    values, cells = [], []
    for name, (_, measures) in SCORED.items():
        counts, patients = counts_of(run, name)
        for measure in measures.values():
            low, high = percentile_interval(measure(resample_sums(counts, patients)), patients)
            values.append(float(measure(counts.sum(0))))
            cells.append(f"{values[-1]:.1f} ({low:.1f} to {high:.1f})")
    return values, cells


def render_changes(
    runs: Mapping[tuple[str, int], dict], pair: tuple[str, str], site: str
) -> list[str]:
    """Differences between two arms in percentage points, with 95 % intervals bootstrapped over
    patients.
    """
    cells = []
    for name, (_, measures) in SCORED.items():
        (before, patients), (after, _) = (counts_of(runs[f"{arm}-{site}", 0], name) for arm in pair)
        measure = measures["mean class F1" if name == "site" else "AJI"]
        cells.append(render_change(before, after, patients, measure))
    return cells


def render_change(
    before: np.ndarray, after: np.ndarray, patients: list[str], measure: Callable
) -> str:
    """The difference of a measure with its interval."""
    found = compare_scores(before, after, patients, measure)
    low, high = found["interval"]
    return f"{found['difference']:+.1f} ({low:+.1f} to {high:+.1f})"


def counts_of(run: Mapping[str, dict], name: str) -> tuple[np.ndarray, list[str]]:
    """Counts and patients of the scored pictures; of TNBC, only the patients ``UNREAD``."""
    patients, counts = np.array(run[name]["patients"]), np.array(run[name]["counts"], float)
    kept = np.isin(patients, UNREAD) if name == "tnbc" else np.full(len(patients), True)
    return counts[kept], patients[kept].tolist()


if __name__ == "__main__":
    run_arms(__doc__, RUNS, ARMS, run_arm, render, reads_data=True, seeds=(0,))
