"""Scores of finished models on the sets of ``run.py``, in percent.

    python -m experiments.pretrained_encoder.models compact-fp32 accurate-fp32 --data DATA

`accurate` is trained by `accurate.yaml`. It has learnt TNBC and NuCLS, as `compact` has, but not
DSB, the scored pictures of NuInsSeg, and the scored accessions of the colon.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.pretrained_encoder.run import MEASURES, render_score, score_sets
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    measures = {title: each for title, each in MEASURES.items() if each[0] != "site"}
    print(f"| model | {' | '.join(measures)} |\n{'|---' * (1 + len(measures))}|")
    for model in args.models:
        scores = score_sets(Predictor(find_model(model)), args.data)
        cells = [render_score(scores, *measure) for measure in measures.values()]
        print(f"| {model} | {' | '.join(cells)} |")
