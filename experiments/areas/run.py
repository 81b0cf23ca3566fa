"""Areas of colon as labels: do they help on tissue that was not read, and what do they cost at a site left out?

    python -m experiments.areas.run --data DATA     # trains what is not recorded
    python -m experiments.areas.run --table

"base" is a narrow network from random weights, trained on the labels of `config/train/compact_narrow.yaml` without one
site of BRCA-M2C, NuCLS and three patients of TNBC. "more" goes on from it with itself as teacher, on the same labels.
"areas" does the same with the epithelium of EBHI-Seg beside them, half of the accessions; "mean" is the average of the
weights of "areas" and "base", 3 to 1; "scales" is "areas" with windows magnified by up to 1.6. All are scored on the
site, on TNBC and NuCLS, on other accessions of EBHI-Seg and on the mouth of OCDC, which no arm reads. A run of "base"
takes 25 minutes of one core, the others 12. "shipped" is the built-in model `compact`, which has read every site and
the mouth.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from experiments.areas.average import average
from experiments.common.areas import (
    EBHI_MPP,
    EPITHELIAL,
    MARGIN_UM,
    ORAL_MPP,
    ebhi_pictures,
    nuclei_in_areas,
    oral_pictures,
)
from experiments.common.crops import read_nucls, read_tnbc, score_outlines
from experiments.common.runs import TOP, by_arm_and_seed, run_arms, runs_of
from experiments.common.sites import SITES, export_fold, score_site, split_sources
from muse_pipeline.evaluation.bootstrap import compare_scores
from muse_pipeline.evaluation.detection import DetectionCounts
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.labels.sources import LabelSource
from muse_pipeline.methods.detector.config import DetectorConfig
from muse_pipeline.methods.detector.run import finetune, load_detector_config
from muse_pipeline.training.run import Options

RUNS = runs_of(__file__)
NARROW = TOP / "config/train/compact_narrow.yaml"
WITHOUT_UNREAD = "sources.2.exclude=['01_', '02_', '04_']"  # patients of TNBC
KINDS = ("base", "more", "areas", "mean", "scales")
SHIPPED = "shipped"
ARMS = [*(f"{kind}-{site}" for site in SITES for kind in KINDS), SHIPPED]
MOST_PICTURES = 130  # of EBHI-Seg that are scored


def run_arm(arm: str, seed: int, args: argparse.Namespace) -> dict:
    """Train and score an arm."""
    cv2.setNumThreads(1)
    if arm == SHIPPED:
        predictor = Predictor(find_model("compact-fp32"))
        return {"ebhi": score_areas(predictor, ebhi_pictures(args.data, odd=True), EBHI_MPP)}
    data, work = args.data.resolve(), args.work.resolve()
    site = arm.split("-")[1]
    config = load_detector_config(NARROW, data, ())
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
    """The checkpoint of an arm, trained unless it exists."""
    kind, site = arm.split("-")
    if kind == "mean":
        return average(
            *(train(f"{one}-{site}", seed, data, work) for one in ("base", "areas")), work / f"{arm}-{seed}.pt"
        )
    changes = [WITHOUT_UNREAD, f"seed={seed}", "export.refine=false", "precision=32-true", "sources.2.weight=2"]
    if kind == "base":
        changes += ["distillation=null", "schedule.steps=2500"]
    else:
        base = train(f"base-{site}", seed, data, work)
        changes += [f"checkpoint={base}", f"distillation.teachers=[{base}]", "distillation.share=0.5"]
        changes += ["schedule.steps=1000", "schedule.learning_rate=1e-3"]
    if kind == "scales":
        changes.append("augmentation.scale=1.6")
    config = load_detector_config(NARROW, data, changes)
    known, _ = split_sources(config, site)
    known = (*known, *(source for source in config.sources if source.format == "masks"))  # TNBC
    if kind in ("areas", "scales"):
        known = (*known, area_source(data, work))
    config: DetectorConfig = dataclasses.replace(config, sources=known)
    return finetune(config, work / f"{arm}-{seed}", Options(accelerator="cpu", threads=1))


def area_source(data: Path, work: Path) -> LabelSource:
    """The half of EBHI-Seg's accessions that is trained on, every picture a quarter as often as the others."""
    work.mkdir(parents=True, exist_ok=True)
    split = work / "ebhi_even.txt"
    split.write_text("\n".join(path.name for path, _, _ in ebhi_pictures(data, odd=False)) + "\n", encoding="utf-8")
    return LabelSource(
        labels=data / "ebhi-seg-colon/regions",
        format="areas",
        images=data / "ebhi-seg-colon/images",
        mpp=EBHI_MPP,
        class_map={"1": "Epithelial", "0": ["Lymphocyte", "Stroma"]},
        margin_um=MARGIN_UM,
        split=split,
        allow_empty=True,
        weight=0.25,
    )


def score_areas(predictor: Predictor, pictures: list[tuple[Path, Path, str]], mpp: float) -> dict:
    """Nuclei found in the epithelium and elsewhere by class, (2, C), in each picture, and its patient."""
    chosen = np.unique(np.linspace(0, len(pictures) - 1, min(len(pictures), MOST_PICTURES)).round().astype(int))
    counts, patients = [], []
    for nuclei, is_inside, patient in nuclei_in_areas(predictor, [pictures[index] for index in chosen], mpp):
        parts = (nuclei.label[is_inside], nuclei.label[~is_inside])
        counts.append([np.bincount(labels, minlength=len(predictor.card.classes)).tolist() for labels in parts])
        patients.append(patient)
    return {"patients": patients, "counts": counts}


def balanced(counts: np.ndarray) -> np.ndarray:
    """Balanced accuracy in percent of epithelial against other nuclei, of counts (..., 2, C)."""
    share = counts[..., EPITHELIAL] / counts.sum(-1).clip(min=1)
    return 50 * (share[..., 0] + 1 - share[..., 1])


MEASURES = {
    "site: mean class F1": ("site", lambda counts: DetectionCounts(counts).mean_class_f1),
    "site: detection F1": ("site", lambda counts: DetectionCounts(counts).f1[..., 0]),
    "colon, other accessions: balanced accuracy": ("ebhi", balanced),
    "mouth, unread: balanced accuracy": ("oral", balanced),
}


def render(recorded: list[dict]) -> str:
    """Scores of each arm, and its difference from "more" with 95 % intervals over patients."""
    runs = by_arm_and_seed(recorded)
    table = [f"| left out | arm | {' | '.join(MEASURES)} |", "|---" * (2 + len(MEASURES)) + "|"]
    for (arm, seed), run in runs.items():
        kind, _, site = arm.partition("-")
        reference = runs.get((f"more-{site}", seed)) if kind in ("areas", "mean", "scales") else None
        cells = [render_score(run, reference, *measure) for measure in MEASURES.values()]
        table.append(f"| {site or 'none'} | {kind} | {' | '.join(cells)} |")
    return "\n".join(table)


def render_score(run: Mapping[str, dict], reference: Mapping[str, dict] | None, part: str, measure) -> str:
    """A score, and its difference from that of the reference; empty where it was not measured."""
    if part not in run:
        return ""
    counts = np.array(run[part]["counts"], float)
    text = f"{float(measure(counts.sum(0))):.1f}"
    if reference is None:
        return text
    before = np.array(reference[part]["counts"], float)
    found = compare_scores(before, counts, run[part]["patients"], measure)
    low, high = found["interval"]
    return f"{text} ({found['difference']:+.1f}: {low:+.1f} to {high:+.1f})"


if __name__ == "__main__":
    run_arms(__doc__, RUNS, ARMS, run_arm, render, reads_data=True, seeds=(0,))
