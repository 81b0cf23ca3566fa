"""`compact` from MUSE's backbone against random weights: detection, classes and outlines of the finished detector.

    python experiments/compact_start.py --data ../shared/data    # trains what is missing: a JSON per run
    python experiments/compact_start.py --table                  # the tables of docs/results.md, from these

Detectors are trained by `config/train/compact.yaml`, for 2,500 steps (half an hour of one core), without a site and
without NuCLS; "muse" begins with the backbone of `muse_proof.py` of the same site and seed, which is trained before if
it is not there (in muse_proof/ beside --work). Pictures of the site, the crops of TNBC and those of NuCLS are scored,
of which no run is trained on any, at a threshold of 0.4. DATA is a folder with brca-m2c/,
camelyon16-patches/, nucls-cc0/ and tnbc-nuclei/. A stopped run goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from arms import run_arms
from muse_proof import pretrain
from unit_real import aji, compare, detection_f1, network_finder, read_nucls, read_tnbc

from muse_pipeline.core.files import read_json
from muse_pipeline.evaluation.bootstrap import compare_scores
from muse_pipeline.evaluation.detection import DetectionCounts
from muse_pipeline.inference.detect import detect_image
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.labels.read import read_labelled_images
from muse_pipeline.labels.statistics import image_colour
from muse_pipeline.methods.detector.config import DetectorConfig
from muse_pipeline.methods.detector.run import finetune, load_detector_config
from muse_pipeline.training.run import Options

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))  # where sites are left out
from leave_one_site_out import export_fold, score_picture, split_sources

RUNS = Path(__file__).parent / "compact_start"
RECIPE = Path(__file__).parents[1] / "config/train/compact.yaml"
CHANGES = ("schedule.steps=2500", "export.threshold=0.4")
SITES = ("A7", "AC")
CLASSES = {  # of counts (..., C + 1, 3)
    "mean class F1": lambda counts: DetectionCounts(counts).mean_class_f1,
    "detection F1": lambda counts: DetectionCounts(counts).f1[..., 0],
}
OUTLINES = {"AJI": lambda counts: 100 * aji(counts), "detection F1": lambda counts: 100 * detection_f1(counts)}
SCORED = {"site": ("the site", CLASSES), "tnbc": ("TNBC", OUTLINES), "nucls": ("NuCLS", OUTLINES)}


def run_arm(arm: str, seed: int, args: argparse.Namespace) -> dict:
    """Train and score an arm: see ``score``."""
    data, work = args.data.resolve(), args.work.resolve()
    return score(train(arm, seed, data, work), arm.split("-")[1], data, work / f"{arm}-{seed}")


def train(arm: str, seed: int, data: Path, work: Path) -> Path:
    """The checkpoint of an arm, which is trained if it is not there."""
    start, site = arm.split("-")
    cv2.setNumThreads(1)
    config = load_detector_config(RECIPE, data, (*CHANGES, "export.refine=false", f"seed={seed}"))
    if start == "muse":
        checkpoint = pretrain("full", site, seed, data, work.parent / "muse_proof")
        config = dataclasses.replace(config, checkpoint=checkpoint)
    known, _ = split_sources(config, site)
    config = dataclasses.replace(config, sources=known)
    return finetune(config, work / f"{arm}-{seed}", Options(accelerator="cpu", threads=1))


def score(checkpoint: Path, site: str, data: Path, folder: Path) -> dict:
    """For each of ``SCORED``: ``patients``, a name per picture, and ``counts`` of each picture."""
    config = load_detector_config(RECIPE, data, ())
    predictor = Predictor(export_fold(checkpoint, folder))
    _, judged = split_sources(config, site)
    return {
        "site": score_site(predictor, dataclasses.replace(config, sources=judged)),
        "tnbc": score_outlines(predictor, read_tnbc(data)),
        "nucls": score_outlines(predictor, read_nucls(data)),
    }


def score_site(predictor: Predictor, config: DetectorConfig) -> dict:
    """Hits, false and missed of any nucleus and of each class, (C + 1, 3), in each picture of the sources."""
    names = config.class_names
    pictures = read_labelled_images(config.sources, names, config.mpp, config.n_rays)
    counts = []
    for picture in pictures:
        found = detect_image(predictor, picture.pixels, image_colour(picture, predictor.card.colour))
        counts.append(score_picture(found, picture.nuclei, len(names), config.mpp).values.tolist())
    return {"patients": [picture.patient for picture in pictures], "counts": counts}


def score_outlines(predictor: Predictor, crops: Sequence[tuple[str, str, np.ndarray, np.ndarray]]) -> dict:
    """What ``unit_real.compare`` counts in each crop."""
    find = network_finder(predictor)
    counts = [compare(find(pixels), true) for _, _, pixels, true in crops]
    return {"patients": [crop[1] for crop in crops], "counts": counts}


def render() -> str:
    """Scores in % from both starts, and the difference with its 95 % interval over patients."""
    return render_pairs(RUNS, {"scratch": "random weights", "muse": "MUSE"}, SITES)


def render_pairs(folder: Path, arms: Mapping[str, str], sites: Sequence[str]) -> str:
    """Scores in % of two arms, and the difference with its 95 % interval over patients.

    Args:
        folder: of the JSON files.
        arms: title of the first and of the second arm.
        sites: that were left out.
    """
    titles = " | ".join(arms.values())
    rows = [f"| left out | scored | measure | seeds | {titles} | difference (95 %) |", "|---" * 7 + "|"]
    rows += (
        f"| {site} | {title} | {measure} | {n_seeds} | {found['before']:.1f} | {found['after']:.1f} | "
        f"{found['difference']:+.1f} ({found['interval'][0]:+.1f} to {found['interval'][1]:+.1f}) |"
        for site, title, measure, n_seeds, found in compare_arms(folder, tuple(arms), sites)
    )
    return "\n".join(rows)


def compare_arms(
    folder: Path, arms: tuple[str, str], sites: Sequence[str], patients: Sequence[str] = ()
) -> Iterator[tuple[str, str, str, int, dict]]:
    """Site, what is scored, measure, number of seeds and ``compare_scores`` of each comparison of two arms.

    Args:
        folder: of the JSON files.
        arms: the first and the second.
        sites: that were left out.
        patients: of TNBC that count; none: all.
    """
    runs = {(run["arm"], run["seed"]): run for run in map(read_json, sorted(folder.glob("*.json")))}
    first, second = arms
    for site in sites:
        seeds = sorted(seed for arm, seed in runs if arm == f"{second}-{site}" and (f"{first}-{site}", seed) in runs)
        for name, (title, measures) in SCORED.items() if seeds else ():
            of_picture = np.array(runs[f"{second}-{site}", seeds[0]][name]["patients"])
            kept = np.isin(of_picture, patients or of_picture) if name == "tnbc" else np.full(len(of_picture), True)
            counts = [
                np.stack([np.array(runs[f"{arm}-{site}", seed][name]["counts"], float)[kept] for seed in seeds], 1)
                for arm in arms
            ]
            for measure, score_of in measures.items():
                mean = functools.partial(_mean_over_seeds, score_of)
                yield site, title, measure, len(seeds), compare_scores(*counts, of_picture[kept].tolist(), mean)


def _mean_over_seeds(score_of: Callable[[np.ndarray], np.ndarray], summed: np.ndarray) -> np.ndarray:
    return score_of(summed).mean(-1)


if __name__ == "__main__":
    run_arms(
        __doc__, RUNS, [f"{start}-{site}" for site in SITES for start in ("scratch", "muse")], run_arm, render, True
    )
