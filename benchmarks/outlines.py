"""Outlines against the NuCLS masks, which no model of ours is trained on: Dice and AJI, beside circles.

    python benchmarks/outlines.py MODEL.onnx --data ../shared/data/nucls-cc0

The control draws, at the very same centres, circles of the mean radius of the true nuclei of the other folds (five
folds by picture), so that both use the same detections and differ in outline alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np

from muse_pipeline.data.labels import LabelSource, image_paths
from muse_pipeline.evaluation.segmentation import rings_to_labels, score_outlines
from muse_pipeline.inference.colour import colour_for_slide
from muse_pipeline.inference.image import detect_image
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.nuclei.label_image import label_image_to_nuclei
from muse_pipeline.nuclei.rays import rays_to_rings
from muse_pipeline.tissue.macenko import fit_macenko

FOLDS = 5
MPP = 0.2  # nominal, of the NuCLS crops


def main() -> None:
    """Score all pictures and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--mpp", type=float, default=MPP)
    args = parser.parse_args()
    predictor = Predictor(args.model)
    paths = image_paths(LabelSource(args.data / "images", args.data / "instances", "instances", args.mpp))
    masks = [cv2.imread(str(args.data / "instances" / path.name), cv2.IMREAD_UNCHANGED) for path in paths]
    radius = [label_image_to_nuclei(mask, (args.mpp, args.mpp), predictor.card.n_rays).rays.mean(1) for mask in masks]
    scores = {"outlines": ([], []), "circles": ([], [])}
    for index, (path, mask) in enumerate(zip(paths, masks, strict=True)):
        others = np.concatenate([r for other, r in enumerate(radius) if other % FOLDS != index % FOLDS])
        nuclei = find_nuclei(predictor, path, args.mpp)
        order = np.argsort(nuclei.score, kind="stable")  # the surest lies on top
        xy = nuclei.xy[order] * (predictor.card.mpp / args.mpp)
        for name, rays in (("outlines", nuclei.rays[order]), ("circles", np.full_like(nuclei.rays, others.mean()))):
            labels = rings_to_labels(rays_to_rings(xy, rays, (args.mpp, args.mpp)), mask.shape)
            score = score_outlines(labels, mask)
            scores[name][0].append(score.dice)
            scores[name][1].append(score.aji)
    table = {
        name: {"dice": round(float(np.concatenate(dice).mean()), 3), "aji": round(float(np.mean(aji)), 3)}
        for name, (dice, aji) in scores.items()
    }
    print(json.dumps({"model": predictor.card.name, "pictures": len(paths), "mpp": args.mpp, **table}))


def find_nuclei(predictor: Predictor, path: Path, mpp: float):
    """Nuclei of a picture at ``mpp``, resampled to the model's."""
    pixels = cv2.imread(str(path))[..., ::-1]
    factor = mpp / predictor.card.mpp
    size = round(pixels.shape[1] * factor), round(pixels.shape[0] * factor)
    fit = fit_macenko(np.ascontiguousarray(pixels).reshape(-1, 3))
    statistics = {"macenko": fit and {"stains": fit.stains, "strong": fit.strong}}
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return detect_image(predictor, small, colour_for_slide(predictor.card.colour, statistics))


if __name__ == "__main__":
    main()
