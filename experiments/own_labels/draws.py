"""Does a class fall if a detector is trained on five labelled crops of new tissue?

    nice -n 19 python -m experiments.own_labels.draws --data DATA   # trains what is not recorded
    python -m experiments.own_labels.draws --table

An arm is a site of BRCA-M2C. A small detector is trained on the two other sites and four patients
of TNBC. Then `config/train/my_labels.yaml` continues with five crops of one half of the site's
patients, drawn anew for each seed, and each class is scored on the crops of the other half. Rare
classes of a site (Lymphocyte in AC, Stroma in A8) are then often labelled in one crop alone.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import cv2
import numpy as np
import torch

from experiments.common.areas import COMPACT, NARROW, narrow_config
from experiments.common.runs import TOP, run_arms
from experiments.common.sites import SITES, draw_pictures, half_of_patients, split_sources
from experiments.common.training import finetune
from muse_pipeline.evaluation.detection import DetectionCounts
from muse_pipeline.labels.base_source import LabelSource
from muse_pipeline.labels.label_sources import read_labelled_images
from muse_pipeline.methods.detector.config import DetectorConfig
from muse_pipeline.methods.detector.run import load_detector_config
from muse_pipeline.methods.detector.start import load_trained, read_start
from muse_pipeline.methods.detector.validation import Scorer
from muse_pipeline.training.checkpoint import load_checkpoint
from muse_pipeline.training.run import Options

RUNS = Path(__file__).with_name("draws.jsonl")
SMALL = ("backbone=muse_compact_16", "window_px=256")  # so that a draw takes a minute or two
BASE = ("distillation=null", "batch=8", "schedule.steps=400", "schedule.save_every=100")
N_CROPS, N_DRAWS, LARGEST_FALL = 5, 7, 1.5
OPTIONS = Options(accelerator="cpu", threads=1)


def run_arm(site: str, seed: int, args: argparse.Namespace) -> dict:
    """Train on a draw, and count hits by class on the other half of the patients."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    data, work = args.data.resolve(), args.work.resolve()
    base = narrow_config(site, 0, data, [*SMALL, *BASE])
    start = finetune(base, work / f"base-{site}-0", OPTIONS)
    changes = [f"checkpoint={start}", f"distillation.teachers=[{start}]", f"seed={seed}"]
    changes += [*SMALL, "minutes=null", "export.refine=false", "training_data=five crops"]
    config = load_detector_config(TOP / "config/train/my_labels.yaml", data, changes)
    drawn = draw_pictures(half_of(data, site, odd=False), N_CROPS, seed)
    config = dataclasses.replace(config, sources=(drawn,))
    tuned = finetune(config, work / f"draw-{site}-{seed}", OPTIONS)
    mixing = load_checkpoint(tuned).meta["mixing"]
    labels = count_labels_of(config)
    held = dataclasses.replace(config, sources=(half_of(data, site, odd=True),))
    counts = [score(path, held) for path in (start, tuned)]
    found = {
        "mixing": mixing,
        "labels": labels,
        "before": counts[0].tolist(),
        "after": counts[1].tolist(),
    }
    return found


def half_of(data: Path, site: str, odd: bool) -> LabelSource:
    """The crops of one half of the site's patients."""
    whole = load_detector_config(COMPACT, data, [NARROW])
    _, (source,) = split_sources(whole, site)
    return half_of_patients(source, odd)


def read(config: DetectorConfig) -> list:
    """The labelled crops of a config."""
    return read_labelled_images(config.sources, config.class_names, config.mpp, config.n_rays)


def count_labels_of(config: DetectorConfig) -> list[list[int]]:
    """Labels of each class in each crop."""
    n_classes = len(config.classes)
    return [np.bincount(image.nuclei.label, minlength=n_classes).tolist() for image in read(config)]


def score(path: Path, config: DetectorConfig) -> np.ndarray:
    """(N, C + 1, 3) counts of a checkpoint in the crops of a config."""
    network, _, _ = load_trained(path)
    start = read_start(dataclasses.replace(config, checkpoint=path))
    scorer = Scorer(network, config, start.colour)
    return np.stack([scorer.total([image]).values for image in read(config)])


def render(recorded: list[dict]) -> str:
    """A table of all draws: labels, the share that is kept, and the change of each class."""
    head = (
        "| site | draw | labels per class | share | detection | Lymphocyte | Epithelial | Stroma |"
    )
    rows = [head, "|---" * 8 + "|"]
    n_falls = np.zeros(3, int)
    for run in sorted(recorded, key=lambda run: (run["arm"], run["seed"])):
        before, after = (
            np.nan_to_num(DetectionCounts(np.sum(run[when], 0)).f1) for when in ("before", "after")
        )
        n_falls += (after - before)[1:] < -LARGEST_FALL
        changes = [f"{b:.1f} ({a - b:+.1f})" for b, a in zip(before, after, strict=True)]
        labels = " ".join(map(str, np.sum(run["labels"], 0)))
        cells = [run["arm"], f"{run['seed']}", labels, f"{run['mixing']['share']:.0%}", *changes]
        rows.append(f"| {' | '.join(cells)} |")
    falls = ", ".join(map(str, n_falls))
    rows.append(
        f"\nDraws in which a class falls by more than {LARGEST_FALL:g}: {falls} of {len(recorded)}."
    )
    return "\n".join(rows)


if __name__ == "__main__":
    run_arms(__doc__, RUNS, SITES, run_arm, render, reads_data=True, seeds=range(N_DRAWS))
