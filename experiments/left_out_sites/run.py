"""Leave-one-site-out on BRCA-M2C: train without a site, export the model to ONNX, and score it on
that site.

    python -m experiments.left_out_sites.run config/train/compact.yaml --data ../shared/data \
        --output runs/loso

With `--model compact-fp32`, that model is scored instead. It may have been trained on the fold; its
scores then show how well the labels of the fold can be matched at all.

The fold "val" is the official split. Two of its patients are also in the training split; their
crops are left out of training. Labels from unknown sites (NuCLS) are not trained on, because they
could come from the left-out site. Detection and class F1 match nuclei within 3 um, and come from
counts summed over the site's pictures, with intervals bootstrapped over patients.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from experiments.common.sites import (
    SITES,
    THRESHOLDS,
    VALIDATION,
    export_fold,
    score_picture,
    split_sources,
    train_fold,
)
from muse_pipeline.evaluation.bootstrap import resample_sums
from muse_pipeline.evaluation.detection import DetectionCounts
from muse_pipeline.inference.detect import detect_image
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.inference.stains import colour_of_fit
from muse_pipeline.labels.label_sources import read_labelled_images
from muse_pipeline.methods.detector.config import DetectorConfig
from muse_pipeline.methods.detector.run import load_detector_config


def main() -> None:
    """Train and score every fold, then print and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--folds", nargs="+", default=[*SITES, VALIDATION])
    parser.add_argument(
        "--set",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="change settings, as in colour=identity",
    )
    parser.add_argument(
        "--pictures", type=int, help="number of pictures of each source to train on (default: all)"
    )
    parser.add_argument(
        "--draw", type=int, default=0, help="seed that chooses them (default: %(default)s)"
    )
    parser.add_argument("--model", help="name or path of a model to score instead of training")
    parser.add_argument("--accelerator", default="auto")
    args = parser.parse_args()
    config = load_detector_config(args.config, args.data, args.set)
    for fold in args.folds:
        folder = args.output / fold
        if args.model:
            model = find_model(args.model)
        else:
            checkpoint = train_fold(
                config, fold, folder, args.accelerator, args.pictures, args.draw
            )
            model = export_fold(checkpoint, folder)
        scores = score_fold(config, fold, model)
        args.output.mkdir(parents=True, exist_ok=True)
        (args.output / f"{fold}.json").write_text(json.dumps(scores, indent=1))
        print(fold, json.dumps(scores["by_threshold"]["0.4"]), flush=True)


def score_fold(config: DetectorConfig, fold: str, model: Path) -> dict:
    """Scores on the fold's pictures, by score threshold."""
    _, held = split_sources(config, fold)
    predictor = Predictor(model)
    names = [one.name for one in config.classes]
    pictures = read_labelled_images(held, tuple(names), config.mpp, config.n_rays)
    predictions = [
        detect_image(predictor, p.pixels, colour_of_fit(predictor.card.colour, p.stain))
        for p in pictures
    ]
    by_threshold = {}
    for threshold in THRESHOLDS:
        counts = [
            score_picture(n[n.score >= threshold], p.nuclei, len(names), config.mpp)
            for n, p in zip(predictions, pictures, strict=True)
        ]
        patients = [p.name[:12] for p in pictures]
        drawn = DetectionCounts(resample_sums(np.stack([one.values for one in counts]), patients))
        spread = np.percentile([drawn.mean_class_f1, drawn.f1[:, 0]], [2.5, 97.5], axis=1)
        total = sum(counts[1:], counts[0])
        by_threshold[str(threshold)] = {
            **{name: round(float(value), 2) for name, value in total.scores(names).items()},
            "mean class interval": spread[:, 0].round(1).tolist(),
            "detection interval": spread[:, 1].round(1).tolist(),
        }
    return {"fold": fold, "n_pictures": len(pictures), "by_threshold": by_threshold}


if __name__ == "__main__":
    main()
