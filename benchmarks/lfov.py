"""Labels on a small square only: plain training, large fields of view, and these with consistency, on left-out sites.

    python benchmarks/lfov.py config/train/compact.yaml --data ../shared/data --output runs/lfov

The emulated setting: BRCA-M2C is labelled everywhere, so every training picture keeps the labels of one random square
(``hidden_labels``), the same in all arms. "plain" sees windows of that square,
the others windows of twice its side with the square anywhere inside. Folds and scores are those of
``leave_one_site_out``; the table gives means over folds and seeds, at one cut for all runs of an arm. "pseudo-label
precision" is the share of pseudo-nuclei within 3 um of a hidden nucleus of their class, over the second half of a run.
A fold that was scored is not run again; one that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from hidden_labels import REGION_PX, HiddenLabelsStage
from leave_one_site_out import SITES, export_fold, score_fold, train_fold

from muse_pipeline.core.files import read_json, write_json
from muse_pipeline.methods.detector.run import load_detector_config

EVERY_ARM = ("schedule.steps=700", "schedule.log_every=10")
ARMS = {
    "plain": (f"window_px={REGION_PX}",),
    "lfov": (f"window_px={2 * REGION_PX}",),
    "lfov-consistency": (f"window_px={2 * REGION_PX}", "consistency={}"),
}


def main() -> None:
    """Train and score every fold of every arm, then write and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--folds", nargs="+", default=list(SITES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="change settings of every arm")
    parser.add_argument("--accelerator", default="auto")
    args = parser.parse_args()
    for seed in args.seeds:
        for fold in args.folds:
            for arm in args.arms:
                run_arm(args, arm, fold, seed)
    table = {arm: summarise(args.output, arm, args.folds, args.seeds) for arm in args.arms}
    write_json(args.output / "lfov.json", table)
    print(json.dumps(table, indent=1))


def run_arm(args: argparse.Namespace, arm: str, fold: str, seed: int) -> None:
    """One arm on one fold, unless its scores are there."""
    folder = run_folder(args.output, arm, fold, seed)
    if folder.with_suffix(".json").is_file():
        return
    changes = (*EVERY_ARM, *ARMS[arm], f"seed={seed}", *args.set)
    config = load_detector_config(args.config, args.data, changes)
    model = export_fold([train_fold(config, fold, folder, args.accelerator, stage=HiddenLabelsStage)], folder)
    scores = score_fold(config, fold, model)
    write_json(folder.with_suffix(".json"), {**scores, "pseudo-label precision": pseudo_precision(folder)})
    print(arm, fold, seed, json.dumps(scores["by_threshold"]["0.4"]), flush=True)


def run_folder(output: Path, arm: str, fold: str, seed: int) -> Path:
    """Where one run lives; its scores lie beside it."""
    return output / f"{arm}_{fold}_seed{seed}"


def pseudo_precision(folder: Path) -> float | None:
    """Share of pseudo-nuclei that are right, over the second half of the logged steps; None where there are none."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    late = [row for row in rows if "pseudo_right" in row][-len(rows) // 2 :]
    n = sum(row["pseudo_nuclei"] for row in late)
    return round(sum(row["pseudo_right"] for row in late) / n, 3) if n else None


def summarise(output: Path, arm: str, folds: list[str], seeds: list[int]) -> dict:
    """Means over folds and seeds at the one cut that suits the arm best: arms differ in how sure they are."""
    runs = [read_json(run_folder(output, arm, fold, seed).with_suffix(".json")) for seed in seeds for fold in folds]
    means = {
        threshold: {
            name: round(float(np.mean([run["by_threshold"][threshold][name] for run in runs])), 2)
            for name in ("mean class", "detection")
        }
        for threshold in runs[0]["by_threshold"]
    }
    threshold = max(means, key=lambda cut: means[cut]["mean class"])
    precision = [run["pseudo-label precision"] for run in runs if run["pseudo-label precision"] is not None]
    return {
        "threshold": float(threshold),
        **means[threshold],
        "pseudo-label precision": round(float(np.mean(precision)), 3) if precision else None,
        "runs": len(runs),
    }


if __name__ == "__main__":
    main()
