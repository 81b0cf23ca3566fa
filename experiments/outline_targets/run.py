"""Ray heads trained on points: outlines grown while labels are read, against the instances of `muse outline`.

    python -m experiments.outline_targets.run config/train/compact.yaml --data DATA --output runs/outline_targets \
        --steps 200

Every head is trained for the same few steps on the config's sources of points alone and scored on its sources of
instances, whose masks and pixels none of them has seen: AJI (mean of pictures), Dice and number of matched nuclei, and
detection F1 within 3 um. "grown" is the training as it is without `muse outline`; the others are its `--mask`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import torch

from experiments.common.outlines import score_outlines
from muse_pipeline.cli.main import main as muse
from muse_pipeline.core.types import Frame
from muse_pipeline.evaluation.detection import RADIUS_UM, count_detections
from muse_pipeline.export.onnx import load_detector
from muse_pipeline.inference.colour_input import colour_of_fit
from muse_pipeline.inference.predictor import nuclei_of_windows
from muse_pipeline.labels.pictures import LabelledImage
from muse_pipeline.labels.read import read_labelled_images
from muse_pipeline.labels.sources import LabelSource, image_paths
from muse_pipeline.methods.detector.config import DetectorConfig
from muse_pipeline.methods.detector.run import finetune, load_detector_config
from muse_pipeline.nuclei.masks import rings_to_labels
from muse_pipeline.nuclei.rays import rays_to_rings
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.training.run import Options

MARGIN_PX = 64  # of mirror image around a picture, at least


def main() -> None:
    """Train and score every kind of target, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--targets", nargs="+", default=["grown", "watershed", "otsu"])
    parser.add_argument("--backbone", default="muse_compact_16")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    config = load_detector_config(args.config, args.data)
    masked = [source for source in config.sources if source.format == "instances"]
    held = [one for source in masked for one in read_held(source, config)]
    table = {}
    for target in args.targets:
        changed = config_for(target, args, config)
        folder = args.output / f"head-{target}"
        checkpoint = finetune(changed, folder, Options(accelerator="cpu", threads=args.threads))
        table[target] = score(checkpoint, held, config.mpp)
        print(json.dumps({target: table[target]}), flush=True)
    (args.output / "outline_targets.json").write_text(json.dumps(table, indent=1) + "\n")


def config_for(target: str, args: argparse.Namespace, config: DetectorConfig) -> DetectorConfig:
    """The config on points alone, or on what `muse outline` makes of them."""
    if target != "grown":
        folder = args.output / f"outlined-{target}"
        if not folder.is_dir() and muse(
            ["outline", str(args.config), "--data", str(args.data), "-o", str(folder), "--mask", target]
        ):
            raise SystemExit(2)
        config = load_detector_config(folder / "config.yaml")
    sources = tuple(
        source for source in config.sources if source.format != "instances" or "outlined-" in str(source.labels)
    )
    schedule = dataclasses.replace(config.schedule, steps=args.steps, save_every=args.steps)
    return dataclasses.replace(config, sources=sources, schedule=schedule, backbone=args.backbone, window_px=256)


def read_held(source: LabelSource, config: DetectorConfig) -> list[tuple[LabelledImage, np.ndarray]]:
    """Pictures at the config's mpp, and their masks as they are in pixels of the same lattice."""
    images = read_labelled_images((source,), config.class_names, config.mpp, config.n_rays)
    paths = {path.stem: path for path in image_paths(source)}
    return [(image, cv2.imread(str(source.labels / paths[image.name].name), cv2.IMREAD_UNCHANGED)) for image in images]


def score(checkpoint: Path, held: list[tuple[LabelledImage, np.ndarray]], mpp: float) -> dict[str, float]:
    """Detect in every picture and compare with its mask, at the mask's own resolution."""
    graph, card = load_detector(checkpoint, input_px=256)
    ajis, dice, counts = [], [], None
    for image, mask in held:
        found = detect(graph.eval(), image, card.colour)
        factor = mask.shape[0] / image.pixels.shape[0]
        rings = rays_to_rings(found.xy * factor, found.rays, (mpp / factor, mpp / factor))
        scores = score_outlines(rings_to_labels(rings, mask.shape), mask.astype(np.int32), RADIUS_UM * factor / mpp)
        ajis.append(scores.aji)
        dice.append(scores.dice)
        one = count_detections(found, image.nuclei, len(card.classes), mpp)
        counts = one if counts is None else counts + one
    dice = np.concatenate(dice)
    return {
        "aji": round(float(np.mean(ajis)), 3),
        "dice": round(float(dice.mean()), 3),
        "matched": len(dice),
        "detection f1": round(float(counts.f1[0]), 1),
    }


@torch.no_grad()
def detect(graph: torch.nn.Module, image: LabelledImage, reference) -> Nuclei:
    """Nuclei of a picture, surest last, continued by its mirror image to a multiple of 64 px."""
    height, width = image.pixels.shape[:2]
    borders = [(MARGIN_PX, MARGIN_PX + -side % 64) for side in (height, width)]
    pixels = np.pad(image.pixels, (*borders, (0, 0)), "symmetric").transpose(2, 0, 1)
    colour = colour_of_fit(reference, image.stain).astype(np.float32)
    outputs = graph(torch.from_numpy(np.ascontiguousarray(pixels))[None], torch.from_numpy(colour))
    found = nuclei_of_windows([output.numpy() for output in outputs])[0].require(Frame.WINDOW)
    found.xy -= MARGIN_PX
    found = found[((found.xy >= 0) & (found.xy < (width, height))).all(1)]
    return found[np.argsort(found.score, kind="stable")]


if __name__ == "__main__":
    main()
