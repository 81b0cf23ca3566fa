"""Seconds of `muse run` with several models or revisions, run in turn: medians, and their growth
with the tissue.

    muse demo-slide bench/7 --area-mm2 7 --mpp 0.25 && muse demo-slide bench/25 --area-mm2 25 \
        --mpp 0.25
    python benchmarks/run_pairs.py bench/7/demo.svs bench/25/demo.svs --models before.onnx \
        compact-int8
    git worktree add ../before REVISION
    python benchmarks/run_pairs.py bench/7/demo.svs bench/25/demo.svs --trees ../before .

Prints wall and processor seconds of the whole run, including start-up, and of each step. The viewer
is not written. The machine should be idle.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

import numpy as np
from end_to_end import children_seconds, fit

from muse_pipeline.tissue.mask import TissueMask

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Run every model on every slide in turn; print each run, the medians and the fits."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("slides", type=Path, nargs="+", metavar="SLIDE")
    parser.add_argument(
        "--models",
        nargs="+",
        default=["compact-int8"],
        metavar="MODEL",
        help="file or built-in name",
    )
    parser.add_argument(
        "--trees",
        type=Path,
        nargs="+",
        default=[ROOT],
        metavar="FOLDER",
        help="checkouts to compare",
    )
    parser.add_argument("--features", default="basic")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rivals = list(product(args.trees, args.models))
    runs = {(*rival, slide): [] for slide in args.slides for rival in rivals}
    for _ in range(args.rounds):
        for (tree, model, slide), measured in runs.items():
            measured.append(measure(slide, tree.resolve(), model, args.features, args.threads))
            print(
                json.dumps(
                    {"tree": str(tree), "model": model, "slide": str(slide), **measured[-1]}
                ),
                flush=True,
            )
    for tree, model in rivals:
        rows = [median(runs[tree, model, slide]) for slide in args.slides]
        print(json.dumps({"tree": str(tree), "model": model, "medians": rows, "fit": fit(rows)}))


def measure(slide: Path, tree: Path, model: str, features: str, threads: int) -> dict[str, float]:
    """Tissue area and seconds of one run into a new folder."""
    with tempfile.TemporaryDirectory() as results:
        how = [
            "--model",
            model,
            "--features",
            features,
            "--threads",
            str(threads),
            "--no-viewer",
        ]
        command = [
            sys.executable,
            "-m",
            "muse_pipeline.cli.main",
            "run",
            slide.resolve(),
            "-o",
            results,
            *how,
        ]
        environment = {**os.environ, "PYTHONPATH": str(tree)}
        started, used = time.monotonic(), children_seconds()
        subprocess.run(command, cwd=results, env=environment, check=True, capture_output=True)
        seconds, processor_seconds = time.monotonic() - started, children_seconds() - used
        (mask,) = Path(results).glob("*/tissue.npz")
        area = TissueMask.load(mask).area_mm2
        ledgers = [json.loads(path.read_text()) for path in Path(results).glob("*/ledger/*.json")]
    by_step = {
        f"{ledger['step']}_{unit}": ledger[unit]
        for ledger in ledgers
        for unit in ("seconds", "processor_seconds")
    }
    return {
        "tissue_mm2": area,
        "seconds": seconds,
        "processor_seconds": processor_seconds,
        **by_step,
    }


def median(rows: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure over the runs."""
    return {name: round(float(np.median([row[name] for row in rows])), 2) for name in rows[0]}


if __name__ == "__main__":
    main()
