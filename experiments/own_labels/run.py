"""A few labelled pictures of tissue that the start has not read: what does the recipe for own labels gain?

    python -m experiments.own_labels.run --data DATA     # trains what is not recorded
    python -m experiments.own_labels.run --table

The start is "base" of `experiments.areas.run` without site A8 of BRCA-M2C: it has read neither that site nor colon.
"breast" is site A8 with its points, "colon" is EBHI-Seg with the areas of its epithelium, squeezed as published.
Pictures to train on are drawn from one half of the patients, those of the other half are scored. "plain" is
`config/train/my_labels.yaml`; "adapted" is the same after `config/train/adapt.yaml` on the pictures of the first half
without labels; "held" is "adapted" with so large a weight of the distillation from the start that MUSE's loss has no
effect, which is self-training on these pictures. The number behind the name counts labelled pictures.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import zlib
from pathlib import Path

import cv2

from experiments.common.areas import (
    MEASURES,
    NARROW,
    PUBLISHED_EBHI_MPP,
    area_source,
    ebhi_pictures,
    render_score,
    score_areas,
    train_base,
)
from experiments.common.runs import TOP, by_arm_and_seed, run_arms, runs_of
from experiments.common.sites import draw_pictures, excluding, export_fold, score_site, split_sources
from experiments.common.training import finetune
from muse_pipeline.core.pictures import read_rgb, write_png
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.labels.sources import LabelSource, image_paths
from muse_pipeline.methods.adapt.run import AdaptConfig, AdaptStage
from muse_pipeline.methods.detector.run import load_detector_config
from muse_pipeline.training.checkpoint import load_checkpoint
from muse_pipeline.training.recipe import load_run
from muse_pipeline.training.run import Options

RUNS = runs_of(__file__)
SITE = "A8"
SIZES = (0, 2, 5, 20)
KINDS = ("plain", "adapted", "held")
ARMS = [f"{tissue}-{kind}-{size}" for size in SIZES for tissue in ("breast", "colon") for kind in KINDS]
ADAPT_STEPS = 400
HOLD_WEIGHTS = {"adapted": 4, "held": 400}
OPTIONS = Options(accelerator="cpu", threads=1)


def run_arm(arm: str, seed: int, args: argparse.Namespace) -> dict:
    """Train and score an arm."""
    cv2.setNumThreads(1)
    tissue, kind, size = arm.split("-")
    data, work = args.data.resolve(), args.work.resolve()
    start = train_base(SITE, 0, data, work)
    if kind != "plain":
        start = adapt(start, tissue, HOLD_WEIGHTS[kind], seed, data, work / f"{tissue}-{kind}-{seed}")
    mixing = None
    if int(size):
        start, mixing = train(start, tissue, int(size), seed, data, work / f"{arm}-{seed}")
    predictor = Predictor(export_fold(start, work / f"{arm}-{seed}"))
    if tissue == "colon":
        scores = {"ebhi": score_areas(predictor, ebhi_pictures(data, odd=True, published=True), PUBLISHED_EBHI_MPP)}
    else:
        config = load_detector_config(NARROW, data, ())
        scores = {"site": score_site(predictor, [breast_source(data, odd=True)], config)}
    return {"mixing": mixing, **scores}


def train(start: Path, tissue: str, size: int, seed: int, data: Path, folder: Path) -> tuple[Path, dict]:
    """The checkpoint of a training on labels, and how the mixing with the start was chosen."""
    known = area_source(data, folder.parent, published=True) if tissue == "colon" else breast_source(data, odd=False)
    source = dataclasses.replace(draw_pictures(known, size, seed), weight=1.0)
    changes = [f"checkpoint={start}", f"distillation.teachers=[{start}]", "export.refine=false", f"seed={seed}"]
    changes.append("training_data=the pictures of an experiment")
    config = load_detector_config(TOP / "config/train/my_labels.yaml", data, changes)
    checkpoint = finetune(dataclasses.replace(config, sources=(source,)), folder, OPTIONS)
    return checkpoint, load_checkpoint(checkpoint).meta["mixing"]


def adapt(start: Path, tissue: str, hold_weight: float, seed: int, data: Path, folder: Path) -> Path:
    """The checkpoint of an adaptation to the pictures that labels are drawn from."""
    pictures = unlabelled_pictures(tissue, data, folder.parent)
    changes = [f"checkpoint={start}", f"seed={seed}", f"schedule.steps={ADAPT_STEPS}"]
    changes.append(f"hold.weight={hold_weight}")
    changes.append(f"sources=[{{images: {json.dumps(str(pictures))}, mpp: 0.5}}]")
    _, config = load_run(TOP / "config/train/adapt.yaml", data, changes, only=AdaptConfig)
    return AdaptStage(config, folder).run(OPTIONS)


def unlabelled_pictures(tissue: str, data: Path, work: Path) -> Path:
    """A folder of the pictures of the first half of the patients at 0.5 um per px; those of colon are enlarged."""
    folder = work / f"{tissue}-pictures"
    folder.mkdir(parents=True, exist_ok=True)
    if tissue == "breast":
        for path in image_paths(breast_source(data, odd=False)):
            if not (link := folder / path.name).exists():
                link.symlink_to(path)
        return folder
    for path, _, _ in ebhi_pictures(data, odd=False, published=True)[::4]:
        if not (enlarged := folder / f"{path.stem}.png").is_file():
            factor = PUBLISHED_EBHI_MPP / 0.5
            write_png(enlarged, cv2.resize(read_rgb(path), None, fx=factor, fy=factor))
    return folder


def breast_source(data: Path, odd: bool) -> LabelSource:
    """One half of the patients of the site."""
    _, (source,) = split_sources(load_detector_config(NARROW, data, ()), SITE)
    patients = {path.name[:12] for path in image_paths(source)}
    return excluding(source, *sorted(name for name in patients if zlib.crc32(name.encode()) % 2 != odd))


def render(recorded: list[dict]) -> str:
    """Scores of each arm, and its difference from the start with 95 % intervals over patients."""
    runs = by_arm_and_seed(recorded)
    table = ["| tissue | labelled pictures | arm, seed | class score | detection F1 |", "|---" * 5 + "|"]
    for (arm, seed), run in runs.items():
        tissue, kind, size = arm.split("-")
        start = runs.get((f"{tissue}-plain-0", 0))
        of_tissue = [measure for measure in list(MEASURES.values())[:3] if measure[0] in run]
        cells = [render_score(run, None if run is start else start, *measure) for measure in of_tissue]
        table.append(f"| {tissue} | {size} | {kind}, {seed} | {' | '.join([*cells, ''][:2])} |")
    return "\n".join(table)


if __name__ == "__main__":
    run_arms(__doc__, RUNS, ARMS, run_arm, render, reads_data=True, seeds=(0,))
