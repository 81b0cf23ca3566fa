"""Processor time of one window by several graphs, run in turn in one process on one thread, and how
well they agree.

    python benchmarks/graph_time.py before.onnx compact-int8 --images DATA/brca-m2c/images \
        [--rounds 10]

A window is nine pictures side by side. Ratios are relative to the first graph, as medians over the
rounds.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from time import process_time

import cv2
import numpy as np

from muse_pipeline.evaluation.detection import match_points
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.tissue.stain import IDENTITY

ACROSS = 3
SAME_PX = 1.0  # two positions that are closer belong to the same nucleus


def main() -> None:
    """Measure all graphs, and print a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "models", nargs="+", metavar="MODEL", help="file or built-in name; windows of one size"
    )
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    predictors = [Predictor(find_model(model)) for model in args.models]
    windows = draw_windows(
        sorted(args.images.glob("*.png")), args.windows, predictors[0].card.input_px
    )
    seconds = seconds_in_turns(predictors, windows, args.rounds)
    found = [[run(predictor, window) for window in windows] for predictor in predictors]
    for index, model in enumerate(args.models):
        ratio = np.median(seconds[:, index] / seconds[:, 0])
        n, same = compare(found[0], found[index])
        print(
            f"{model}: {np.median(seconds[:, index]):.4f} s, {ratio:.3f} of the first; {n} nuclei,"
            f" {same} the same"
        )


def seconds_in_turns(
    predictors: list[Predictor], windows: list[np.ndarray], rounds: int
) -> np.ndarray:
    """(rounds, P, W) processor seconds of each call; a first round, which allocates memory, is
    not counted.
    """
    seconds = np.zeros((rounds + 1, len(predictors), len(windows)))
    for turn in seconds:
        for index, predictor in enumerate(predictors):
            for number, window in enumerate(windows):
                begun = process_time()
                run(predictor, window)
                turn[index, number] = process_time() - begun
    return seconds[1:]


def draw_windows(pictures: list[Path], n: int, side_px: int) -> list[np.ndarray]:
    """``n`` windows (1, side, side, 3) uint8 of nine pictures each, white between smaller
    pictures.
    """
    part = side_px // ACROSS
    windows = []
    for first in range(0, n * ACROSS**2, ACROSS**2):
        window = np.full((side_px, side_px, 3), 255, np.uint8)
        for location, path in enumerate(pictures[first : first + ACROSS**2]):
            pixels = cv2.imread(str(path))[:part, :part, ::-1]
            row, column = (part * at for at in divmod(location, ACROSS))
            window[row : row + pixels.shape[0], column : column + pixels.shape[1]] = pixels
        windows.append(window[None])
    return windows


def run(predictor: Predictor, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions (N, 2) in px and scores (N,) of the nuclei found in one window, without
    normalising its stains.
    """
    (found,) = predictor(window, IDENTITY)
    return found.xy, found.score


def compare(expected: list[tuple], found: list[tuple]) -> tuple[int, int]:
    """Number of nuclei found, and of those that match an expected one, one to one within
    ``SAME_PX``.
    """
    taken = [
        match_points(xy, score, known, SAME_PX)
        for (xy, score), (known, _) in zip(found, expected, strict=True)
    ]
    return sum(map(len, taken)), sum(int((one >= 0).sum()) for one in taken)


if __name__ == "__main__":
    main()
