"""The region model `epithelium` on pictures that it was not trained on.

    python -m experiments.epithelium.run --data DATA     # trains and scores what is not recorded
    python -m experiments.epithelium.run --table         # prints the table

"shipped" is the built-in model, scored on the accessions of EBHI-Seg that it was not trained on. "colon" is trained
without the tiles of the mouth (OCDC), in ten minutes on one core, and is scored on them, too. A pixel is epithelium if
that is the more probable class, on a map with cells of 4 um. DATA contains `prepared/`, written by
`python -m experiments.areas.prepare DATA`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from experiments.common.areas import EBHI_MPP, ORAL_MPP, ebhi_pictures, oral_pictures
from experiments.common.runs import TOP, run_arms, runs_of, with_interval
from muse_pipeline.cli.main import main
from muse_pipeline.core.pictures import read_rgb
from muse_pipeline.inference.model import find_region_model
from muse_pipeline.inference.predictor import RegionPredictor
from muse_pipeline.inference.stains import colour_of_fit
from muse_pipeline.tissue.stain import fit_macenko

CONFIG = TOP / "config/train/epithelium.yaml"
SETS = {"colon": "colon, other accessions", "mouth": "mouth, unread, tiles of one patient"}


def run_arm(arm: str, seed: int, args: argparse.Namespace) -> dict:
    """Train and score an arm; "shipped" is only scored."""
    model = find_region_model("epithelium") if arm == "shipped" else train(args.data.resolve(), args.work / arm)
    predictor = RegionPredictor(model)
    found = {"colon": score(predictor, ebhi_pictures(args.data, odd=True), EBHI_MPP)}
    return found if arm == "shipped" else {**found, "mouth": score(predictor, oral_pictures(args.data), ORAL_MPP)}


def train(data: Path, folder: Path) -> Path:
    """Train and export a model without the mouth."""
    words = ["train", CONFIG, "--data", data / "prepared", "-o", folder, "--threads", 1]
    assert main([str(word) for word in [*words, "--set", "sources.0.exclude=[ocdc]"]]) == 0
    assert main(["export", str(folder / "checkpoint.pt"), "-o", str(folder / "model.onnx")]) == 0
    return folder / "model.onnx"


def score(predictor: RegionPredictor, pictures: list[tuple[Path, Path, str]], mpp: float) -> dict:
    """Patients, and for each picture the number of pixels of epithelium: correctly found, found, and true."""
    areas, patients = [], []
    side = predictor.card.input_px
    for picture, mask_path, patient in pictures:
        pixels = read_rgb(picture)
        true = cv2.imread(str(mask_path), cv2.IMREAD_GRAYSCALE) > 0
        height, width = (round(n * mpp / predictor.card.mpp) for n in true.shape)
        resized = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
        borders = (side - height) // 2, (side - height + 1) // 2, (side - width) // 2, (side - width + 1) // 2
        window = cv2.copyMakeBorder(resized, *borders, cv2.BORDER_REFLECT)
        colour = colour_of_fit(predictor.card.colour, fit_macenko(pixels.reshape(-1, 3)))
        other, epithelium = predictor(window[None], colour)[0]
        difference = cv2.resize(epithelium - other, (side, side), interpolation=cv2.INTER_LINEAR)
        difference = difference[borders[0] : borders[0] + height, borders[2] : borders[2] + width]
        found = cv2.resize(difference, true.shape[::-1], interpolation=cv2.INTER_LINEAR) > 0
        areas.append([int((found & true).sum()), int(found.sum()), int(true.sum())])
        patients.append(patient)
    return {"patients": patients, "areas": areas}


def dice(areas: np.ndarray) -> np.ndarray:
    """Dice coefficient (...) from summed ``areas`` (..., 3) of ``score``."""
    return 2 * areas[..., 0] / areas[..., 1:].sum(-1).clip(min=1)


def render(recorded: list[dict]) -> str:
    """Table of Dice over all pixels of a set, with intervals bootstrapped over patients (for the mouth, tiles)."""
    lines = ["| model | pictures | n | patients | Dice (95 %) |", "|---|---|---|---|---|"]
    for run in recorded:
        for name, title in SETS.items():
            if name in run:
                areas, patients = np.array(run[name]["areas"], float), run[name]["patients"]
                cells = (
                    run["arm"],
                    title,
                    str(len(areas)),
                    "1" if name == "mouth" else str(len(set(patients))),
                    with_interval(dice, areas, patients),
                )
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run_arms(__doc__, runs_of(__file__), ("shipped", "colon"), run_arm, render, reads_data=True, seeds=(0,))
