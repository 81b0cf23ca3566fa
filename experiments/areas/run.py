"""Areas of colon as labels: do they help on tissue that was not trained on, and what do they cost
at a left-out site?

    python -m experiments.areas.run --data DATA     # trains what is not recorded
    python -m experiments.areas.run --table         # prints the table

"base" is a narrow network trained from random weights on the labels of the stage `narrow` of
`config/train/compact.yaml`, but without a site of BRCA-M2C, NuCLS and three patients of TNBC.
"more" continues from it on the same labels, with "base" as its teacher. "areas" does the same, but
also has the epithelium of half of the accessions of EBHI-Seg; "mean" is the average of the weights
of "areas" and "base", 3 to 1. All are scored on the site, on TNBC and NuCLS, on the other
accessions of EBHI-Seg, and on the mouth of OCDC, which no arm was trained on. A run of "base"
takes 25 minutes on one core, other runs 12. "shipped" is the built-in model `compact`, which was
trained on every site and on the mouth. DATA contains `prepared/`, written by `python -m
experiments.areas.prepare DATA`.

The table compares "mean" with "more"; "each" pools the patients of all sites.
"""

from __future__ import annotations

import argparse
import dataclasses
from itertools import chain
from pathlib import Path

import cv2

from experiments.areas.average import average
from experiments.common.areas import (
    COMPACT,
    EBHI_MPP,
    MEASURES,
    NARROW,
    ORAL_MPP,
    area_source,
    ebhi_pictures,
    narrow_config,
    oral_pictures,
    render_score,
    score_areas,
    train_base,
)
from experiments.common.crops import read_nucls, read_tnbc, score_outlines
from experiments.common.runs import by_arm_and_seed, run_arms, runs_of
from experiments.common.sites import SITES, export_fold, score_site, split_sources
from experiments.common.training import finetune
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.methods.detector.run import load_detector_config
from muse_pipeline.training.run import Options

RUNS = runs_of(__file__)
KINDS = ("base", "more", "areas", "mean")
SHIPPED = "shipped"
ARMS = [*(f"{kind}-{site}" for site in SITES for kind in KINDS), SHIPPED]


def run_arm(arm: str, seed: int, args: argparse.Namespace) -> dict:
    """Train and score an arm; "shipped" is only scored."""
    cv2.setNumThreads(1)
    if arm == SHIPPED:
        predictor = Predictor(find_model("compact-fp32"))
        return {"ebhi": score_areas(predictor, ebhi_pictures(args.data, odd=True), EBHI_MPP)}
    data, work = args.data.resolve(), args.work.resolve()
    site = arm.split("-")[1]
    config = load_detector_config(COMPACT, data, [NARROW])
    predictor = Predictor(export_fold(train(arm, seed, data, work), work / f"{arm}-{seed}"))
    _, judged = split_sources(config, site)
    return {
        "site": score_site(predictor, judged, config),
        "tnbc": score_outlines(predictor, read_tnbc(data)),
        "nucls": score_outlines(predictor, read_nucls(data)),
        "ebhi": score_areas(predictor, ebhi_pictures(data, odd=True), EBHI_MPP),
        "oral": score_areas(predictor, oral_pictures(data), ORAL_MPP),
    }


def train(arm: str, seed: int, data: Path, work: Path) -> Path:
    """The checkpoint of an arm, which is trained unless it exists."""
    kind, site = arm.split("-")
    if kind == "mean":
        return average(
            *(train(f"{one}-{site}", seed, data, work) for one in ("base", "areas")),
            work / f"{arm}-{seed}.pt",
        )
    base = train_base(site, seed, data, work)
    if kind == "base":
        return base
    changes = [f"checkpoint={base}", f"distillation.teachers=[{base}]", "distillation.share=0.5"]
    changes += ["schedule.steps=1000", "schedule.learning_rate=1e-3"]
    config = narrow_config(site, seed, data, changes)
    if kind == "areas":
        config = dataclasses.replace(config, sources=(*config.sources, area_source(data)))
    return finetune(config, work / f"{arm}-{seed}", Options(accelerator="cpu", threads=1))


def render(recorded: list[dict]) -> str:
    """Scores of "mean", and differences from "more" with 95 % intervals bootstrapped over
    patients.
    """
    runs = {arm: run for (arm, _), run in by_arm_and_seed(recorded).items()}
    rows = {}
    for left_out, sites in {**{site: (site,) for site in SITES}, "each": SITES}.items():
        mean, more = (pool([runs[f"{kind}-{site}"] for site in sites]) for kind in ("mean", "more"))
        rows[left_out] = [render_score(mean, more, *measure) for measure in MEASURES.values()]
    rows["none: shipped"] = [
        render_score(runs[SHIPPED], None, *measure) for measure in MEASURES.values()
    ]
    header = f"| left out | {' | '.join(MEASURES)} |\n{'|---' * (1 + len(MEASURES))}|\n"
    return header + "\n".join(f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items())


def pool(runs: list[dict]) -> dict:
    """One run with the pictures of all ``runs``."""
    parts = {part for part, _ in MEASURES.values()}
    return {
        part: {
            key: [*chain.from_iterable(run[part][key] for run in runs)]
            for key in ("patients", "counts")
        }
        for part in parts
    }


if __name__ == "__main__":
    run_arms(__doc__, RUNS, ARMS, run_arm, render, reads_data=True, seeds=(0,))
