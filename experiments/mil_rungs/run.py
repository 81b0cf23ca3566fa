"""The gain from each part of IKD-MIL: maps of synthetic textures, trained only on labels of images.

    python -m experiments.mil_rungs.run            # trains what is not recorded
    python -m experiments.mil_rungs.run --table    # prints the table

Images of 160 px show tissue with small nuclei and one cluster of nuclei. Half of the images also
contain islands of tissue with large nuclei, in the same colours, and the only label of an image is
whether it contains islands. Masks of the islands score the maps of test images; weights are not
chosen by these masks.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
from pathlib import Path

import cv2
import numpy as np

from experiments.common.runs import run_arms, runs_of
from muse_pipeline.core.pictures import write_png
from muse_pipeline.evaluation.bootstrap import percentile_interval, resample_sums
from muse_pipeline.export.region_models import load_region_model
from muse_pipeline.inference.card import DICE, NucleusClass
from muse_pipeline.methods.mil.config import MilConfig, StudentSettings
from muse_pipeline.methods.mil.data import AUC, THRESHOLD, RegionScorer
from muse_pipeline.methods.mil.tissue import TissueSource, read_tissue_images
from muse_pipeline.training.loop import MetricsLog
from muse_pipeline.training.method import Schedule
from muse_pipeline.training.recipe import RECIPES, train_run
from muse_pipeline.training.run import Options, RunFolder

RUNS = runs_of(__file__)
SIDE_PX, MPP = 160, 2.0
N_IMAGES = {"training": 250, "validation": 50, "test": 100}  # images of each label
CLASSES = (NucleusClass("Normal", (150, 200, 150)), NucleusClass("Tumour", (200, 0, 0)))
GROUND, DARK = (222, 165, 200), (105, 70, 145)
SCHEDULE = Schedule(steps=300, learning_rate=1e-3, save_every=300, validate_every=50, log_every=50)
ROUNDS, ROUND = (
    3,
    dataclasses.replace(SCHEDULE, steps=150, learning_rate=1e-3, save_every=150, validate_every=50),
)
BATCH = 6


def student(**settings: object) -> StudentSettings:
    """A student of three rounds."""
    return StudentSettings(**{"rounds": ROUNDS, "schedule": ROUND, **settings})


# Kind of the teacher, and settings of the student; without rounds there is no student. Recorded
# runs of "exchange" and "restart-best", in which teacher and student swapped roles between rounds,
# are of an earlier version.
ARMS = {
    "teacher": ("dice", StudentSettings(rounds=0)),
    "longer": ("dice", StudentSettings(rounds=0)),
    "hard-copy": ("dice", student(distillation=0, weighted=False)),
    "distillation": ("dice", student(cross_entropy=0)),
    "weighted": ("dice", student()),
    "lower-rate": ("dice", student(schedule=dataclasses.replace(ROUND, learning_rate=3e-4))),
    "gm-teacher": ("gm", StudentSettings(rounds=0)),
    "gm-weighted": ("gm", student()),
}
TITLES = {
    "teacher": "teacher, Dice on image labels",
    "longer": "control: teacher for as many steps as teacher and student together",
    "hard-copy": "control: student of its thresholded map, plain cross-entropy",
    "distillation": "student with fusion distillation",
    "weighted": "and weighted cross-entropy, no swap",
    "exchange": "and `swap: exchange`",
    "restart-best": "and `swap: restart_best`",
    "lower-rate": "no swap, learning rate 3e-4 in place of 1e-3",
    "gm-teacher": "teacher, generalised means",
    "gm-weighted": "its student with distillation and weighted cross-entropy, no swap",
}
COMPARED = {name: "gm-teacher" if name.startswith("gm") else "teacher" for name in TITLES}


def draw_and_run(arm: str, seed: int, args: argparse.Namespace) -> dict:
    """Generate the images unless they exist, train an arm and score it."""
    work = args.work.resolve()
    return run_arm(arm, seed, draw_data(work / f"data-{seed}", seed), work)


def draw_data(folder: Path, seed: int) -> Path:
    """Write the images and the masks of every split into separate folders, and return
    ``folder``.
    """
    if folder.is_dir():
        return folder
    for number, (split, n_images) in enumerate(N_IMAGES.items()):
        rng = np.random.default_rng([seed, number])
        for label, name in enumerate(one.name for one in CLASSES):
            for kind in ("images", "masks"):
                (folder / split / kind / name).mkdir(parents=True)
            for index in range(n_images):
                mask = draw_islands(rng) if label else np.zeros((SIDE_PX, SIDE_PX), bool)
                file = f"{split}{label}{index:03d}.png"
                write_png(folder / split / "images" / name / file, draw_tissue(mask, rng))
                write_png(folder / split / "masks" / name / file, mask.astype(np.uint8))
    return folder


def draw_islands(rng: np.random.Generator) -> np.ndarray:
    """Mask (160, 160) of smooth areas that cover 10 to 60 %."""
    field = cv2.GaussianBlur(rng.normal(size=(SIDE_PX, SIDE_PX)).astype(np.float32), (0, 0), 16)
    return field > np.quantile(field, 1 - rng.uniform(0.1, 0.6))


def draw_tissue(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Picture (160, 160, 3) uint8 with large nuclei inside ``mask``, small ones outside, and a
    random cluster.
    """
    picture = np.empty((SIDE_PX, SIDE_PX, 3), np.uint8)
    picture[:] = np.add(GROUND, rng.normal(0, 8, 3)).clip(0, 255)
    cluster = rng.uniform(0, SIDE_PX, 2)
    clustered = cluster + rng.normal(0, 8, (30, 2))
    sparse = rng.uniform(0, SIDE_PX, (360, 2))
    xy = np.concatenate([sparse, clustered])
    column, row = xy.astype(int).clip(0, SIDE_PX - 1).T
    inside = mask[row, column]
    for (x, y), is_large in zip(xy, inside, strict=True):
        if (
            is_large and rng.random() < 0.5
        ):  # fewer large nuclei, so that both tissues are equally dark
            continue
        radius = rng.normal(3.0, 0.5) if is_large else rng.normal(1.8, 0.4)
        color = np.add(DARK, rng.normal(0, 15, 3)).clip(0, 255).tolist()
        axes = (round(max(radius, 0.8) * 16), round(max(radius * rng.uniform(0.6, 1), 0.8) * 16))
        centre = round(x * 16), round(y * 16)
        cv2.ellipse(
            picture, centre, axes, rng.uniform(0, 180), 0, 360, color, -1, cv2.LINE_AA, shift=4
        )
    return np.clip(picture + rng.normal(0, 6, picture.shape), 0, 255).astype(np.uint8)


def source(data: Path, split: str) -> TissueSource:
    """The source of the images of a split."""
    masks = None if split == "training" else data / split / "masks"
    return TissueSource(folders=data / split / "images", masks=masks, mpp=MPP)


def run_arm(arm: str, seed: int, data: Path, work: Path) -> dict:
    """Train one arm, starting from the teacher of a previous arm if there is one, and score it."""
    (teacher, student_settings), longer = ARMS[arm], arm == "longer"
    config = MilConfig(
        name=arm,
        backbone="muse_compact_16",
        mpp=MPP,
        classes=CLASSES,
        sources=(source(data, "training"),),
        validation=(source(data, "validation"),),
        schedule=(
            dataclasses.replace(SCHEDULE, steps=SCHEDULE.steps + ROUNDS * ROUND.steps)
            if longer
            else SCHEDULE
        ),
        licence="CC0-1.0",
        training_data="drawn textures",
        teacher=teacher,
        student=student_settings,
        colour="identity",
        window_px=SIDE_PX,
        batch=BATCH,
        seed=100 * seed,
    )
    folder = work / f"{arm}-{seed}"
    other = work / f"{COMPARED[arm]}-{seed}"
    if student_settings.rounds and other.is_dir() and not folder.is_dir():
        shutil.copytree(other, folder)
        for name in ("checkpoint.pt", "config.yaml"):
            (folder / name).unlink(missing_ok=True)
    checkpoint = train_run(
        RECIPES["mil"](), config, folder, Options(accelerator="cpu", threads=1, log=print)
    )
    stages = sorted((folder / "stages").iterdir())
    rows = MetricsLog(RunFolder(stages[-1]).metrics).read()
    curve = [row[DICE] for row in rows if DICE in row]
    return {"curve": curve, **score_test(checkpoint, data)}


def score_test(checkpoint: Path, data: Path) -> dict:
    """AUC of the test images, and counts of correct and wrong pixels of the images that contain the
    second tissue.
    """
    network, _ = load_region_model(checkpoint)
    images = read_tissue_images(
        [source(data, "test")], tuple(one.name for one in CLASSES), MPP, SIDE_PX
    )
    scorer = RegionScorer(
        network, images, np.repeat(np.eye(3, 4, dtype=np.float32)[None], len(images), 0), SIDE_PX
    )
    counts = []
    for fused, image in zip(scorer.maps(), images, strict=True):
        found = cv2.resize(fused[0], (SIDE_PX, SIDE_PX)) >= THRESHOLD
        truth = image.mask == 1
        if image.label:
            counts.append([int((found & truth).sum()), int((found ^ truth).sum())])
    return {"auc": scorer.score()[AUC], "counts": counts}


def f1(counts: np.ndarray) -> np.ndarray:
    """F1 in percent from (..., 2) counts of correct and wrong pixels."""
    return 200 * counts[..., 0] / (2 * counts[..., 0] + counts[..., 1])


def render_table(recorded: list[dict]) -> str:
    """The table: F1 over seeds, its difference from the teacher's, and the largest fall of F1 in
    the last round.
    """
    runs = {f"{run['arm']}-{run['seed']}": run for run in recorded}
    rows = [
        (
            "| | F1 of pixels | difference from its teacher (95 %) | fall in the last round | AUC"
            " of images |"
        ),
        "|---|---|---|---|---|",
    ]
    for arm, title in TITLES.items():
        seeds = [
            seed
            for seed in range(10)
            if f"{arm}-{seed}" in runs and f"{COMPARED[arm]}-{seed}" in runs
        ]
        if not seeds:
            continue
        of_arm, of_teacher = (
            [runs[f"{name}-{seed}"] for seed in seeds] for name in (arm, COMPARED[arm])
        )
        counts, against = (
            np.stack([run["counts"] for run in some], 1) for some in (of_arm, of_teacher)
        )
        values = f1(counts.sum(0))
        difference = "" if arm == COMPARED[arm] else _difference_text(counts, against)
        fall = max(max_fall(run["curve"]) for run in of_arm)
        auc = np.mean([run["auc"] for run in of_arm])
        by_seed = ", ".join(f"{value:.1f}" for value in values)
        cells = [title, f"{values.mean():.1f} ({by_seed})", difference, f"{fall:.1f}", f"{auc:.3f}"]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _difference_text(counts: np.ndarray, against: np.ndarray) -> str:
    names = [str(index) for index in range(len(counts))]
    both = np.stack([counts, against], 1)  # (images, 2, seeds, 2)
    drawn = f1(resample_sums(both, names)).mean(-1)
    low, high = percentile_interval(drawn[:, 0] - drawn[:, 1], names)
    difference = float((f1(counts.sum(0)) - f1(against.sum(0))).mean())
    return f"{difference:+.1f} ({low:+.1f} to {high:+.1f})"


def max_fall(curve: list[float]) -> float:
    """Largest fall of a curve of F1 below its previous maximum, in percent."""
    values = 100 * np.array(curve)
    return float((np.maximum.accumulate(values) - values).max())


if __name__ == "__main__":
    run_arms(__doc__, RUNS, ARMS, draw_and_run, render_table)
