"""Whether the self-supervised stage of PSM is worth its training: masks after no, 100 and 10,000 updates.

    python -m experiments.psm_updates.run --data DATA       # trains and scores what is not recorded
    python -m experiments.psm_updates.run --table           # prints the table

The network is trained on the ten crops of NuCLS without their masks, and scored on these, as in
`experiments/proposals`: every crop is a slide of its own, and all masks are cut by one rule. Otsu's threshold has no
seed.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import cv2
import numpy as np
import torch

from experiments.common.proposals import BACKBONE, COLUMNS, MPP, Mask, as_instances, psm, read_pictures, score_control
from experiments.common.runs import run_arms, runs_of
from muse_pipeline.data.unlabelled import UnlabelledSource
from muse_pipeline.methods.psm.activation import ActivationConfig, ActivationStage
from muse_pipeline.models.activation import ActivationNetwork, load_activation
from muse_pipeline.proposals.activation_map import ClusterSettings
from muse_pipeline.proposals.otsu import fit_otsu
from muse_pipeline.training.run import Options

RUNS = runs_of(__file__)
UPDATES = {"untrained": 0, "short": 100, "long": 10_000}
TITLES = {name: f"PSM, {steps:,} updates" for name, steps in UPDATES.items()} | {"otsu": "Otsu on haematoxylin"}
SHOWN = COLUMNS[:-1]  # all but the time


def run_arm(arm: str, seed: int, args: argparse.Namespace) -> dict:
    """The scores of its masks, cut into nuclei."""
    cv2.setNumThreads(1)
    folder = args.data.resolve() / "nucls-cc0"
    mask = make_mask(arm, seed, folder / "images", args.work / f"{arm}-{seed}")
    return {"scores": score_control(as_instances(mask), read_pictures(folder, "instances"))[", cut"]}


def make_mask(arm: str, seed: int, images: Path, work: Path) -> Mask:
    """What finds the foreground; its network is trained where the arm has one."""
    if arm == "otsu":
        return lambda pixels, mpp: fit_otsu([pixels], mpp)
    if not UPDATES[arm]:
        torch.manual_seed(seed)
        return psm(ActivationNetwork(BACKBONE, 1).eval(), ClusterSettings())
    config = ActivationConfig(sources=(UnlabelledSource(images=images, mpp=MPP),), mpp=MPP, seed=seed)
    config = dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, steps=UPDATES[arm]))
    checkpoint = ActivationStage(config, work).run(Options(accelerator="cpu", threads=1))
    return psm(load_activation(checkpoint), ClusterSettings())


def render_table(runs: list[dict]) -> str:
    """Means over seeds, and the values of all seeds of the AJI."""
    header = ["masks, cut into nuclei", "seeds", *SHOWN, "AJI of each seed"]
    rows = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for arm, title in TITLES.items():
        scores = [run["scores"] for run in runs if run["arm"] == arm]
        if scores:
            means = [f"{np.mean([one[column] for one in scores]):.3f}" for column in SHOWN]
            each = ", ".join(f"{one['AJI']:.3f}" for one in scores)
            rows.append(f"| {title} | {len(scores)} | {' | '.join(means)} | {each} |")
    return "\n".join(rows)


if __name__ == "__main__":
    run_arms(__doc__, RUNS, tuple(TITLES), run_arm, render_table, reads_data=True)
