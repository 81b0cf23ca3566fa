"""Detection F1 of the haematoxylin proposer on point labels: each picture is its own slide.

    python -m experiments.proposals.points ../shared/data/brca-m2c

Reads the training split alone: pictures at 0.5 um/px and labels of `row column class`. One to one within 3 um, counts
summed; seconds of one core per mm2, fit and reading left out.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np

from muse_pipeline.evaluation.detection import match_points
from muse_pipeline.proposals.base import SlideSample
from muse_pipeline.proposals.haematoxylin import HaematoxylinFinder, HaematoxylinSettings
from muse_pipeline.tissue.stain import fit_macenko

MPP, RADIUS_UM = 0.5, 3.0


def main() -> None:
    """Score every picture of the split and print the sums."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    cv2.setNumThreads(1)
    counts, seconds, area_mm2 = np.zeros(3, int), 0.0, 0.0
    for name in (folder / "train.txt").read_text().split():
        pixels = np.ascontiguousarray(cv2.imread(str(folder / "images" / name))[..., ::-1])
        (labels,) = (folder / "labels").glob(f"{Path(name).stem}*")
        truth = np.loadtxt(labels, ndmin=2)[:, [1, 0]]
        fit = fit_macenko(pixels.reshape(-1, 3))
        finder = HaematoxylinFinder.fit(SlideSample(MPP, (pixels,), fit and fit.stains), HaematoxylinSettings())
        started = time.process_time()
        found = finder.find(pixels)
        seconds += time.process_time() - started
        area_mm2 += pixels[..., 0].size * MPP**2 / 1e6
        n = int((match_points(found.xy, found.score, truth, RADIUS_UM / MPP) >= 0).sum())
        counts += (n, len(found) - n, len(truth) - n)
    true, false, missed = counts
    print(f"F1 {200 * true / (2 * true + false + missed):.1f}, precision {100 * true / (true + false):.1f}", end=", ")
    print(f"recall {100 * true / (true + missed):.1f}; {seconds / area_mm2:.2f} s/mm2")


if __name__ == "__main__":
    main()
