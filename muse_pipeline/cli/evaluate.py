"""Score a table of nuclei against true nuclei: detection and class F1 at 3 um.

One-to-one matching by descending score, as the point-detection papers do. The truth is a CSV with columns x, y (level-0
pixels) and class.
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``muse evaluate``."""
    parser.add_argument("nuclei", type=Path, help="nuclei.parquet of `muse stitch`")
    parser.add_argument("--truth", type=Path, required=True, metavar="CSV", help="x,y,class in level-0 pixels")
    parser.add_argument("--json", type=Path, metavar="JSON", help="also write the scores here")


def run(args: argparse.Namespace) -> None:
    """Score one slide."""
    from muse_pipeline.evaluation.detection import count_detections
    from muse_pipeline.evaluation.truth import read_truth
    from muse_pipeline.files import write_json
    from muse_pipeline.nuclei.parquet import read_nuclei, read_provenance

    provenance = read_provenance(args.nuclei)
    classes = [one["name"] for one in provenance["card"]["classes"]]
    predicted, true = read_nuclei(args.nuclei), read_truth(args.truth, classes)
    counts = count_detections(predicted, true, len(classes), tuple(provenance["slide_mpp"]))
    scores = counts.scores(classes)
    print(f"{len(predicted)} nuclei found, {len(true)} true; F1 at 3 um in percent:")
    for name, value in scores.items():
        print(f"  {name:<12} {value:5.1f}")
    if args.json:
        write_json(args.json, {"n_found": len(predicted), "n_true": len(true), "f1": scores})
