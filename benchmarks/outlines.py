"""Outlines against the NuCLS masks by five folds of pictures: Dice and AJI, beside circles.

    python benchmarks/outlines.py config/train/compact.yaml --data ../shared/data --output runs/outlines \
        --initial runs/loso/AC/checkpoint.pt

Each fold goes on from a checkpoint that has seen no NuCLS picture, with the config's sources less the fold's pictures.
The control draws, at the very same centres, circles of the mean radius of the true nuclei of the other folds, so that
both use the same detections and differ in outline alone. A nucleus is matched if its centre lies within 3 um.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
from outline_scores import OutlineScores, score_outlines

from muse_pipeline.evaluation.detection import RADIUS_UM
from muse_pipeline.export.onnx import export_onnx
from muse_pipeline.inference.colour_input import colour_of_fit
from muse_pipeline.inference.detect import detect_image
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.labels.sources import LabelSource, image_paths
from muse_pipeline.methods.detector.config import DetectorConfig
from muse_pipeline.methods.detector.run import finetune, load_detector_config
from muse_pipeline.nuclei.masks import label_image_to_nuclei, rings_to_labels
from muse_pipeline.nuclei.rays import rays_to_rings
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.tissue.stain import fit_macenko
from muse_pipeline.training.run import Options

FOLDS = 5


def main() -> None:
    """Train and score every fold, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--initial", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--weight", type=float, default=12.0, help="how often a picture with masks is drawn")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    config = load_detector_config(args.config, args.data, ["export.refine=false"])
    schedule = dataclasses.replace(config.schedule, steps=args.steps, learning_rate=1e-3)
    sources = tuple(
        dataclasses.replace(source, weight=args.weight) if source.format == "instances" else source
        for source in config.sources
    )
    config = dataclasses.replace(config, checkpoint=args.initial, schedule=schedule, sources=sources)
    masked = next(source for source in config.sources if source.format == "instances")
    scores: dict[str, list[OutlineScores]] = {"outlines": [], "circles": []}
    for fold in range(FOLDS):
        held = image_paths(masked)[fold::FOLDS]
        predictor = train_without(config, held, args.output / str(fold), args.threads)
        radius = mean_radius([path for path in image_paths(masked) if path not in held], masked)
        for path in held:
            for name, score in score_picture(predictor, path, masked, radius).items():
                scores[name].append(score)
    table = {
        name: {
            "dice": round(float(np.concatenate([one.dice for one in all_scores]).mean()), 3),
            "aji": round(float(np.mean([one.aji for one in all_scores])), 3),
        }
        for name, all_scores in scores.items()
    }
    n_matched = sum(len(one.dice) for one in scores["outlines"])
    table |= {"n_pictures": len(scores["outlines"]), "n_matched": n_matched, "mpp": masked.mpp}
    (args.output / "outlines.json").write_text(json.dumps(table, indent=1) + "\n")
    print(json.dumps(table))


def train_without(config: DetectorConfig, held: list[Path], folder: Path, threads: int) -> Predictor:
    """A model that never saw the pictures ``held``."""
    sources = tuple(
        dataclasses.replace(source, exclude=(*source.exclude, *(path.name for path in held)))
        for source in config.sources
    )
    checkpoint = finetune(dataclasses.replace(config, sources=sources), folder, Options(threads=threads))
    export_onnx(checkpoint, folder / "model.onnx")
    return Predictor(folder / "model.onnx")


def read_mask(path: Path, source: LabelSource) -> np.ndarray:
    """The instance mask of a picture."""
    return cv2.imread(str(source.labels / path.name), cv2.IMREAD_UNCHANGED).astype(np.int32)


def mean_radius(paths: list[Path], source: LabelSource) -> float:
    """Mean radius, um, of the true nuclei of ``paths``."""
    nuclei = [label_image_to_nuclei(read_mask(path, source), (source.mpp, source.mpp), 32) for path in paths]
    return float(np.concatenate([one.rays.mean(1) for one in nuclei]).mean())


def score_picture(predictor: Predictor, path: Path, source: LabelSource, radius: float) -> dict[str, OutlineScores]:
    """Outlines and circles of one picture against its mask."""
    nuclei = find_nuclei(predictor, path, source.mpp)
    nuclei = nuclei[np.argsort(nuclei.score, kind="stable")]  # the surest lies on top
    xy = nuclei.xy * (predictor.card.mpp / source.mpp)
    mask = read_mask(path, source)
    drawn = {"outlines": nuclei.rays, "circles": np.full_like(nuclei.rays, radius)}
    return {
        name: score_outlines(
            rings_to_labels(rays_to_rings(xy, rays, (source.mpp, source.mpp)), mask.shape), mask, RADIUS_UM / source.mpp
        )
        for name, rays in drawn.items()
    }


def find_nuclei(predictor: Predictor, path: Path, mpp: float) -> Nuclei:
    """Nuclei of a picture at ``mpp``, resampled to the model's."""
    pixels = np.ascontiguousarray(cv2.imread(str(path))[..., ::-1])
    colour = colour_of_fit(predictor.card.colour, fit_macenko(pixels.reshape(-1, 3)))
    size = tuple(round(side * mpp / predictor.card.mpp) for side in pixels.shape[1::-1])
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return detect_image(predictor, small, colour)


if __name__ == "__main__":
    main()
