"""Whether pretraining the backbone with a partner improves a detector with few labels.

    python -m experiments.trident_detector.run --data DATA    # trains what is not recorded
    python -m experiments.trident_detector.run --table        # prints the table

The backbones are those of the experiment trident_tissue, in the folder trident_tissue/ next to
--work. Each is fine-tuned as a detector like `compact` on five labelled pictures of site A8 of
BRCA-M2C, chosen by the seed, and scored on sites A7 and AC. DATA is a folder with brca-m2c/.
"""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np

from experiments.common.breast import (
    N_PICTURES,
    SCORES,
    SETTINGS,
    load_breast,
    read_site,
    score,
    without,
)
from experiments.common.runs import by_arm_and_seed, run_arms, runs_of
from experiments.common.training import finetune
from muse_pipeline.evaluation.bootstrap import compare_scores
from muse_pipeline.evaluation.detection import DetectionCounts
from muse_pipeline.training.run import Options

RUNS = runs_of(__file__)
LEARNT, JUDGED = "A8", ("A7", "AC")
TITLES = {
    "three-drawn": "two H&E views and drawn nuclei",
    "siamese": "two H&E views (Siamese)",
    "untrained": "random weights",
}
BASELINE = "siamese"


def main() -> None:
    """Train and score the runs that are not recorded, or print the table."""
    run_arms(__doc__, RUNS, TITLES, run_arm, render_table, reads_data=True)


def run_arm(arm: str, seed: int, args: argparse.Namespace) -> dict:
    """Patients, and counts of a fine-tuned detector, for the pictures of the scored sites."""
    data, work = args.data.resolve(), args.work.resolve()
    config = load_breast(data, *SETTINGS, f"seed={seed}")
    names = [sample.name for sample in config.sources[0].choose()]
    of_site = sorted(name for name in names if f"TCGA-{LEARNT}-" in name)
    chosen = set(np.random.default_rng(seed).permutation(of_site)[:N_PICTURES].tolist())
    config = without(config, [name for name in names if name not in chosen])
    if arm != "untrained":
        checkpoint = work.with_name("trident_tissue") / f"{arm}-{seed}" / "checkpoint.pt"
        config = dataclasses.replace(config, checkpoint=checkpoint)
    tuned = finetune(config, work / f"{arm}-{seed}", Options(accelerator="cpu", threads=1))
    judged = [picture for site in JUDGED for picture in read_site(data, site)]
    return {"patients": [picture.patient for picture in judged], "counts": score(tuned, judged)}


def render_table(recorded: list[dict]) -> str:
    """The table of mean scores over seeds, and of differences from two H&E views."""
    runs = by_arm_and_seed(recorded)
    rows = [
        f"| backbone before fine-tuning | runs | {' | '.join(SCORES)} "
        f"| {' | '.join(f'{name}, less Siamese (95 %)' for name in SCORES)} |",
        "|---" * (2 + 2 * len(SCORES)) + "|",
    ]
    for arm, title in TITLES.items():
        seeds = sorted(seed for one, seed in runs if one == arm and (BASELINE, seed) in runs)
        found = [compare(runs, arm, seeds, score) for score in SCORES.values()]
        cells = [f"{one['after']:.1f}" for one in found]
        cells += [
            ""
            if arm == BASELINE
            else "{:+.1f} ({:+.1f} to {:+.1f})".format(one["difference"], *one["interval"])
            for one in found
        ]
        rows.append(f"| {title} | {len(seeds)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def compare(runs: dict, arm: str, seeds: list[int], score) -> dict:
    """Comparison of an arm with the baseline on the same patients, averaged over seeds."""
    patients = runs[arm, seeds[0]]["patients"]
    sums = (np.stack([runs[one, seed]["counts"] for seed in seeds], 1) for one in (BASELINE, arm))
    return compare_scores(*sums, patients, lambda counts: score(DetectionCounts(counts)).mean(-1))


if __name__ == "__main__":
    main()
