"""The score below which nuclei are dropped, on TNBC: AJI and detection F1 of a detector whose training has not read it.

    python benchmarks/score_cut.py runs/compact/checkpoint.pt --data ../shared/data

Of the graph in 32-bit floats. Intervals are of the difference from 0.40, by bootstrap over the 7 patients, all of
which the built-in `compact` was trained on. DATA is a folder with tnbc-nuclei/.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from muse_pipeline.evaluation.bootstrap import compare_scores
from muse_pipeline.export.onnx import export_onnx
from muse_pipeline.inference.model import find_checkpoint
from muse_pipeline.inference.predictor import Predictor

sys.path.append(str(Path(__file__).parents[1] / "experiments"))  # where TNBC is read and scored
from unit_real import aji, compare, detection_f1, network_finder, read_tnbc

THRESHOLDS, BASE = (0.25, 0.3, 0.35, 0.4, 0.45), 0.4


def main() -> None:
    """Score every threshold and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="of a detector, or the name of a built-in one")
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    crops = read_tnbc(args.data)
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(
            find_checkpoint(args.checkpoint), Path(folder) / "model.onnx", threshold=min(THRESHOLDS), snap_um=0.0
        )
        predictor = Predictor(Path(folder) / "model.onnx")
    counts = {}
    for threshold in THRESHOLDS:
        find = network_finder(predictor, threshold)
        counts[threshold] = np.array([compare(find(pixels), true) for _, _, pixels, true in crops], float)
    print("| threshold | AJI | change from 0.40 (95 %) | detection F1 | change from 0.40 (95 %) |\n" + "|---" * 5 + "|")
    for threshold, found in counts.items():
        cells = []
        for measure in (aji, detection_f1):
            change = compare_scores(counts[BASE], found, [crop[1] for crop in crops], measure)
            low, high = change["interval"]
            text = f"{change['difference']:+.3f} ({low:+.3f} to {high:+.3f})"
            cells += [f"{change['after']:.3f}", "" if threshold == BASE else text]
        print(f"| {threshold:.2f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
