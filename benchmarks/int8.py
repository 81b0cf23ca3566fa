"""What int8 gains and costs: processor time of one window, agreement with fp32, F1 on a site that was left out.

    python benchmarks/int8.py config/train/compact.yaml --data DATA
    python benchmarks/int8.py config/train/compact.yaml --data DATA --checkpoint runs/loso/A8/checkpoint.pt --site A8

The first is of the built-in files. The checkpoint of the second is of a fold of leave_one_site_out.py; both graphs are
exported from it here, and scored on the site that it has not seen. Time is counted in turns in one process, on one
thread. Agreement is on the pictures of the official val split, one window each with its own stains; the networks have
seen them, or those of other sites, in their training.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from graph_time import SAME_PX, seconds_in_turns
from leave_one_site_out import VALIDATION, score_picture, split_sources

from muse_pipeline.evaluation.detection import match_points
from muse_pipeline.export.onnx import export_onnx
from muse_pipeline.export.parity import TOLERANCES, compare
from muse_pipeline.inference.detect import detect_image
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.labels.pictures import LabelledImage
from muse_pipeline.labels.read import read_labelled_images
from muse_pipeline.labels.statistics import image_colour
from muse_pipeline.methods.detector.run import load_detector_config

PRECISIONS = ("fp32", "int8")


def main() -> None:
    """Export, unless the files are there; measure time, agreement and, on a site that was left out, F1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--checkpoint", type=Path, help="in place of the built-in files")
    parser.add_argument("--site", help="that the checkpoint has not seen")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--threshold", type=float, default=0.4, help="of the graphs of a checkpoint")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    config = load_detector_config(args.config, args.data)
    names = tuple(one.name for one in config.classes)

    def read(fold: str) -> list[LabelledImage]:
        return read_labelled_images(split_sources(config, fold)[1], names, config.mpp, config.n_rays)

    predictors = export(args.checkpoint, args.threshold) if args.checkpoint else built_in()
    validation = read(VALIDATION)
    print_time(predictors, validation[0], args.rounds)
    print_agreement(predictors, validation)
    if args.site:
        print_scores(predictors, read(args.site), names)


def built_in() -> list[Predictor]:
    """Both files of the built-in model."""
    return [Predictor(find_model(f"compact-{precision}")) for precision in PRECISIONS]


def export(checkpoint: Path, threshold: float) -> list[Predictor]:
    """Both graphs of a checkpoint, calibrated on the pictures of its own training."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{precision}.onnx" for precision in PRECISIONS]
        for precision, path in zip(PRECISIONS, paths, strict=True):
            export_onnx(checkpoint, path, precision=precision, threshold=threshold)
        return [Predictor(path) for path in paths]


def print_time(predictors: list[Predictor], picture: LabelledImage, rounds: int) -> None:
    """Processor seconds of one call, the graphs in turns."""
    side, repeats = predictors[0].card.input_px, -(-predictors[0].card.input_px // min(picture.pixels.shape[:2]))
    window = np.tile(picture.pixels, (repeats, repeats, 1))[None, :side, :side]
    seconds = seconds_in_turns(predictors, [np.ascontiguousarray(window)], rounds)[..., 0]
    fp32, int8 = np.median(seconds, axis=0)
    print(f"one window of {side} px: fp32 {fp32:.3f} s, int8 {int8:.3f} s of processor time, {fp32 / int8:.2f} times")


def print_agreement(predictors: list[Predictor], pictures: list[LabelledImage]) -> None:
    """Nucleus by nucleus: those within a pixel of each other, one to one."""
    pairs = []
    for picture in pictures:
        pairs.append([detect_image(p, picture.pixels, image_colour(picture, p.card.colour)) for p in predictors])
    print("as `muse export` judges it:", compare(pairs, predictors[0].card.threshold, TOLERANCES["int8"]))
    n_expected = n_found = 0
    apart, score, other = [], [], []
    for expected, found in pairs:
        taken = match_points(found.xy, found.score, expected.xy, SAME_PX)
        first, second = taken[taken >= 0], np.flatnonzero(taken >= 0)
        n_expected, n_found = n_expected + len(expected), n_found + len(found)
        apart.append(np.hypot(*(expected.xy[first] - found.xy[second]).T))
        score.append(np.abs(expected.score[first] - found.score[second]))
        other.append(expected.label[first] != found.label[second])
    apart, score, other = (np.concatenate(parts) for parts in (apart, score, other))
    print(
        f"all nuclei of {len(pictures)} pictures: fp32 {n_expected}, int8 {n_found}, {len(apart)} of both, "
        f"{other.mean():.2%} of them of another class; median (99 %) distance {np.median(apart):.3f} "
        f"({np.percentile(apart, 99):.3f}) px, score {np.median(score):.4f} ({np.percentile(score, 99):.4f})"
    )


def print_scores(predictors: list[Predictor], pictures: list[LabelledImage], names: tuple[str, ...]) -> None:
    """F1 in percent at 3 um."""
    for precision, predictor in zip(PRECISIONS, predictors, strict=True):
        card = predictor.card
        counts = [
            score_picture(
                detect_image(predictor, picture.pixels, image_colour(picture, card.colour)),
                picture.nuclei,
                len(names),
                card.mpp,
            )
            for picture in pictures
        ]
        scores = sum(counts[1:], counts[0]).scores(list(names))
        print(f"{precision} on {len(pictures)} pictures:", ", ".join(f"{n} {v:.2f}" for n, v in scores.items()))


if __name__ == "__main__":
    main()
