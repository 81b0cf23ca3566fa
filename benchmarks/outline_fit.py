"""How well outlines fit those drawn by hand: detection F1, AJI, Dice and boundary F1, with intervals.

    python benchmarks/outline_fit.py narrow.onnx narrow-int8.onnx --data ../shared/data --patients 01 02 04
    python benchmarks/outline_fit.py narrow.onnx label_free --data ../shared/data --set dsb2018

Scores are of counts summed over the crops; Dice is the mean over the matched nuclei, boundary F1 within 0.5 um.
Intervals are by bootstrap over patients, and over crops where these are not named. DATA is a folder with tnbc-nuclei/,
nucls-cc0/ and dsb2018-brightfield/.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from outline_scores import boundary_f1, count_boundaries, score_outlines

from muse_pipeline.core.pictures import read_rgb
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor

sys.path.append(str(Path(__file__).parents[1] / "experiments"))  # where TNBC is read and scored
from unit_real import MPP, RADIUS_UM, aji, compare, detection_f1, network_finder, read_nucls, read_tnbc, with_interval

BOUNDARY_UM = 0.5
MEASURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # of counts (..., 11)
    "detection F1": lambda counts: detection_f1(counts[..., :5]),
    "AJI": lambda counts: aji(counts[..., :5]),
    "Dice": lambda counts: counts[..., 5] / np.maximum(counts[..., 6], 1),
    "boundary F1": lambda counts: boundary_f1(counts[..., 7:]),
}


def read_dsb2018(data: Path) -> list[tuple[str, str, np.ndarray, np.ndarray]]:
    """Name, the name once more in place of a patient, pixels and instances of each crop."""
    folder = data / "dsb2018-brightfield"
    return [
        (path.stem, path.stem, read_rgb(path), cv2.imread(str(folder / "labels" / path.name), -1).astype(np.int32))
        for path in sorted((folder / "images").glob("*.png"))
    ]


SETS = {"tnbc": read_tnbc, "nucls": read_nucls, "dsb2018": read_dsb2018}  # all at 0.25 um/px


def main() -> None:
    """Score every model and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="file or built-in name")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", choices=SETS, default="tnbc", help="of crops (default: %(default)s)")
    parser.add_argument("--patients", nargs="+", help="those to score on (default: all)")
    args = parser.parse_args()
    crops = [crop for crop in SETS[args.set](args.data) if not args.patients or crop[1] in args.patients]
    patients = [crop[1] for crop in crops]
    if len(set(patients)) < 2:
        parser.error("intervals need crops of two patients or more")
    print(f"| {len(crops)} crops | {' | '.join(MEASURES)} |\n" + "|---" * (len(MEASURES) + 1) + "|")
    for model in args.models:
        predictor = Predictor(find_model(model))
        if predictor.refiner:
            print(f"{model}: its refining network was trained on all of these outlines", file=sys.stderr)
        find = network_finder(predictor)
        counts = np.array([count_crop(find(pixels), true) for _, _, pixels, true in crops], float)
        cells = [with_interval(measure, counts, patients) for measure in MEASURES.values()]
        print(f"| `{Path(model).stem}` | {' | '.join(cells)} |", flush=True)


def count_crop(found: np.ndarray, true: np.ndarray) -> list[float]:
    """The 11 sums of a crop that ``MEASURES`` are made of."""
    dice = score_outlines(found, true, RADIUS_UM / MPP).dice
    return [*compare(found, true), dice.sum(), len(dice), *count_boundaries(found, true, BOUNDARY_UM / MPP)]


if __name__ == "__main__":
    main()
