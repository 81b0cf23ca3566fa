"""What is wrong with outlines: their position, their size or their form, on nuclei of TNBC that were found.

    python benchmarks/outline_errors.py compact-fp32 --data ../shared/data --patients 01 02 04

Mean Dice of nuclei that hold one point of the model and are not cut by the border of their crop: of the outlines as
they are, then put on the true centroid, scaled about their point to the true area, both, and of as many rays of the
mask itself. DATA is a folder with tnbc-nuclei/.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from muse_pipeline.inference.detect import detect_picture
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.nuclei.masks import label_image_to_nuclei, rings_to_labels
from muse_pipeline.nuclei.rays import rays_to_rings
from muse_pipeline.tissue.stain import fit_macenko

sys.path.append(str(Path(__file__).parents[1] / "experiments"))  # where TNBC is read
from unit_real import MPP, RAYS, read_tnbc

ROWS = ("as they are", "on the true centroid", "of the true area", "both", "rays of the mask")


def main() -> None:
    """Print the mean Dice of each kind of outline, and how far points and areas are off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="file or built-in name")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--patients", nargs="+", help="those to measure (default: all)")
    args = parser.parse_args()
    predictor, dice, apart_um = Predictor(find_model(args.model)), [], []
    for _, patient, pixels, true in read_tnbc(args.data):
        if args.patients and patient not in args.patients:
            continue
        found = detect_picture(predictor, pixels, MPP, fit_macenko(pixels.reshape(-1, 3)))
        drawn, names = label_image_to_nuclei(true, (MPP, MPP), RAYS), np.unique(true[true > 0])
        for number, name in found_alone(true, found.xy):
            own = np.searchsorted(names, name)
            outlines = (found.xy[number], found.rays[number] / MPP), (drawn.xy[own], drawn.rays[own] / MPP)
            dice.append(score_kinds(true == name, *outlines))
            apart_um.append(np.hypot(*(drawn.xy[own] - found.xy[number])) * MPP)
    print(f"| {len(dice)} nuclei | Dice |\n|---|---|")
    for row, mean in zip(ROWS, np.mean(dice, 0), strict=True):
        print(f"| {row} | {mean:.3f} |")
    print(f"points are {np.mean(apart_um):.2f} um from the centroid, median {np.median(apart_um):.2f} um")


def found_alone(true: np.ndarray, xy: np.ndarray) -> Iterator[tuple[int, int]]:
    """Numbers of those of the points ``xy`` (N, 2) that lie alone in a nucleus of ``true`` (h, w), and its label."""
    height, width = true.shape
    column, row = np.floor(xy).astype(int).clip(0, (width - 1, height - 1)).T
    at = true[row, column]
    cut = {*true[0], *true[-1], *true[:, 0], *true[:, -1]}
    for number, name in enumerate(at):
        if name and name not in cut and (at == name).sum() == 1:
            yield number, name


Outline = tuple[np.ndarray, np.ndarray]  # point (2,) and rays (R,) in px


def score_kinds(mask: np.ndarray, found: Outline, drawn: Outline) -> list[float]:
    """Dice with ``mask`` of each of ``ROWS``."""
    (point, rays), (centroid, _) = found, drawn
    resized = rays * np.sqrt(mask.sum() / max(painted(point, rays, mask.shape).sum(), 1))
    kinds = found, (centroid, rays), (point, resized), (centroid, resized), drawn
    return [overlap(painted(*kind, mask.shape), mask) for kind in kinds]


def painted(point: np.ndarray, rays: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(h, w) bool inside of an outline."""
    return rings_to_labels(rays_to_rings(point[None], rays[None], (1, 1)), shape) > 0


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Dice of two masks."""
    return 2 * (one & other).sum() / (one.sum() + other.sum())


if __name__ == "__main__":
    main()
