"""Does MUSE help an encoder that was trained on ImageNet, if few crops are labelled?

    python -m experiments.pretrained_encoder.few_labels --data DATA    # trains what is not recorded
    python -m experiments.pretrained_encoder.few_labels --table

An arm is a start and a number of labelled crops. Detectors with EfficientNet-Lite0 are trained for
200 steps (4 windows of 256 px, fp32) on crops of one half of the patients of BRCA-M2C, which the
seed draws, and are scored on the crops of the other half and on TNBC. They start from random
weights ("random"), from ImageNet weights ("imagenet"), or from ImageNet weights that MUSE continued
("muse"): `config/train/muse_pretrain.yaml` with a third of its learning rate, for 1,200 steps, on
pixels of the first half and of lymph nodes, mouth and oesophagus, in pictures with at least ten of
the nuclei that `label_free` finds. MUSE is run once. DATA is a folder as in `run.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import cv2

from experiments.common.areas import ORAL_MPP
from experiments.common.breast import load_breast
from experiments.common.crops import network_finder, read_crops, score_crops
from experiments.common.runs import TOP, by_arm_and_seed, run_arms
from experiments.common.sites import (
    draw_pictures,
    export_fold,
    half_of_patients,
    patients_of_half,
    score_site,
)
from experiments.common.training import finetune, load_muse_config, pretrain
from experiments.pretrained_encoder.run import (
    KINDS,
    pool,
    published_weights,
    render_change,
    render_score,
)
from experiments.pretrained_encoder.run import MEASURES as OF_SITES
from muse_pipeline.data.nucleus_images import NucleusSource
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.training.run import Options

RUNS = Path(__file__).with_name("few_labels.jsonl")
STARTS = ("random", "imagenet", "muse")
N_LABELLED = (2, 5, 20)
ARMS = [f"{start}-{n}" for n in N_LABELLED for start in STARTS]
PARTS = ("site", "tnbc")
BACKBONE, OPTIONS = KINDS["lite0"].backbone, Options(accelerator="cpu", threads=1)
CHANGES = ("window_px=256", "precision=32-true", "schedule.steps=200", "schedule.save_every=100")
EXPORT = ("export.refine=false", "export.input_px=640")
MEASURES = {
    title.replace("site", "other patients"): measure
    for title, measure in OF_SITES.items()
    if measure[0] in PARTS
}


def run_arm(arm: str, seed: int, args: argparse.Namespace) -> dict:
    """Train an arm and score it."""
    cv2.setNumThreads(1)
    data, work = args.data.resolve(), args.work.resolve()
    start, n = arm.split("-")
    weights = find_start(start, data, work)
    changes = [*CHANGES, *EXPORT, f"backbone={BACKBONE}", f"seed={seed}"]
    changes += [f"checkpoint={weights}"] if weights else []
    config = load_breast(data, *changes)
    labelled = draw_pictures(half_of_patients(config.sources[0], odd=False), int(n), seed)
    checkpoint = finetune(
        dataclasses.replace(config, sources=(labelled,)), work / f"{arm}-{seed}", OPTIONS
    )
    predictor = Predictor(export_fold(checkpoint, work / f"{arm}-{seed}"))
    others = half_of_patients(config.sources[0], odd=True)
    judged = dataclasses.replace(others, grow_outlines=False)
    find, crops = network_finder(predictor), read_crops(data, "tnbc")
    return {
        "site": score_site(predictor, [judged], config),
        "tnbc": score_crops([find(crop[2]) for crop in crops], crops),
    }


def find_start(start: str, data: Path, work: Path) -> Path | None:
    """The weights that a detector starts from; MUSE is run unless its checkpoint exists."""
    if start == "random":
        return None
    weights = published_weights(0)
    return weights if start == "imagenet" else pretrain_encoder(weights, data, work / "pretrain")


def pretrain_encoder(weights: Path, data: Path, folder: Path) -> Path:
    """The checkpoint of MUSE, which continues ``weights``."""
    breast = load_breast(data).sources[0]
    pictures = {
        "camelyon16-patches/normal": 0.25,
        "camelyon16-patches/tumor": 0.25,
        "oesophagus-tcga-unlabelled/images": 0.2485,
        "oral-scc/unlabelled": 0.27,
        "oral-scc/images": ORAL_MPP,
    }
    sources = (
        NucleusSource(
            images=breast.images,
            mpp=0.5,
            exclude=tuple(patients_of_half(breast, odd=True)),
        ),
        *(
            NucleusSource(images=data / name, mpp=mpp, patient="^(.*)$")
            for name, mpp in pictures.items()
        ),
    )
    changes = [f"backbone={BACKBONE}", f"checkpoint={weights}", "precision=32-true"]
    changes += ["schedule.learning_rate=1e-3", "min_nuclei=10"]
    changes += [f"sources=[{{images: {breast.images}}}]"]
    config = load_muse_config(TOP / "config/train/muse_pretrain.yaml", data, changes)
    return pretrain(dataclasses.replace(config, sources=sources), folder, OPTIONS)


def render(recorded: list[dict]) -> str:
    """Scores over all runs of an arm, and differences from ImageNet weights."""
    runs = by_arm_and_seed(recorded)
    columns = f"{' | '.join(MEASURES)} |\n{'|---' * (3 + len(MEASURES))}|"
    lines = [f"| labelled | start | draws | {columns}"]
    for n in N_LABELLED:
        for start in STARTS:
            keys = [key for key in runs if key[0] == f"{start}-{n}"]
            keys = [key for key in keys if (f"imagenet-{n}", key[1]) in runs]
            if not keys:
                continue
            whole = pool([runs[key] for key in keys], PARTS)
            base = pool([runs[f"imagenet-{n}", seed] for _, seed in keys], PARTS)
            cells = [render_score(whole, *measure) for measure in MEASURES.values()]
            if start != "imagenet":
                changes = (render_change(base, whole, *measure) for measure in MEASURES.values())
                cells = [", ".join(pair) for pair in zip(cells, changes, strict=True)]
            lines.append(f"| {n} | {start} | {len(keys)} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run_arms(__doc__, RUNS, ARMS, run_arm, render, reads_data=True)
