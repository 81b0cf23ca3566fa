"""Scores of finished models on the sets of ``run.py``, in percent.

    python -m experiments.pretrained_encoder.models compact-fp32 accurate-fp32 --data DATA

`accurate` is trained by `accurate.yaml`. It has learnt TNBC and NuCLS, as `compact` has, but not
DSB, the scored pictures of NuInsSeg, and the scored accessions of the colon. The second table has
the nuclei of these accessions by the grade of their pictures.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

from experiments.common.areas import EBHI_MPP, EPITHELIAL, ebhi_pictures, score_areas
from experiments.pretrained_encoder.run import MEASURES, render_score, score_sets
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor


def score_grades(predictor: Predictor, data: Path) -> dict[str, list[float]]:
    """For each grade, the pictures, and the percentages of nuclei in and outside the epithelium
    that are Epithelial.
    """
    pictures = defaultdict(list)
    for picture in ebhi_pictures(data, odd=True):
        pictures[picture[0].name.partition("_")[0]].append(picture)
    scores = {}
    for grade, chosen in pictures.items():
        areas = score_areas(predictor, chosen, EBHI_MPP)
        counts = np.sum(areas["counts"], 0)
        scores[grade] = [len(areas["counts"]), *100 * counts[:, EPITHELIAL] / counts.sum(-1)]
    return scores


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    measures = {title: each for title, each in MEASURES.items() if each[0] != "site"}
    print(f"| model | {' | '.join(measures)} |\n{'|---' * (1 + len(measures))}|")
    predictors = {name: Predictor(find_model(name)) for name in args.models}
    for model, predictor in predictors.items():
        scores = score_sets(predictor, args.data)
        cells = [render_score(scores, *measure) for measure in measures.values()]
        print(f"| {model} | {' | '.join(cells)} |")
    grades = [score_grades(predictor, args.data) for predictor in predictors.values()]
    titles = [f"{model}: {where}" for model in predictors for where in ("inside", "outside")]
    print(f"\n| colon | pictures | {' | '.join(titles)} |\n{'|---' * (2 + len(titles))}|")
    for grade, (n, *_) in grades[0].items():
        shares = [f"{share:.1f}" for scores in grades for share in scores[grade][1:]]
        print(f"| {grade} | {n} | {' | '.join(shares)} |")
