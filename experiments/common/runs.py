"""Recorded runs of an experiment (a line of ``runs.jsonl`` each), command lines, and cells of
tables.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np
import torch

from muse_pipeline.evaluation.bootstrap import compare_scores, percentile_interval, resample_sums

TOP = Path(__file__).parents[2]


def runs_of(script: str) -> Path:
    """The file of runs next to a script."""
    return Path(script).with_name("runs.jsonl")


def read_runs(path: Path) -> list[dict]:
    """All recorded runs, in the order in which they were recorded."""
    return (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if path.is_file()
        else []
    )


def is_recorded(path: Path, **key: object) -> bool:
    """True if a run with these values exists."""
    return any(key.items() <= run.items() for run in read_runs(path))


def add_run(path: Path, run: dict) -> None:
    """Record a run."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(run) + "\n")


def read_data(
    description: str, runs: Path, render_table: Callable[[list[dict]], str]
) -> Path | None:
    """Read the command line: return the folder of ``--data``, or print the table and return None
    with ``--table``.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--table", action="store_true", help="print the table of the recorded runs")
    args = parser.parse_args()
    if args.table:
        print(render_table(read_runs(runs)))
        return None
    if args.data is None:
        parser.error("--data is missing")
    return args.data


def run_arms(
    description: str,
    runs: Path,
    arms: Collection[str],
    run_arm: Callable[[str, int, argparse.Namespace], dict],
    render_table: Callable[[list[dict]], str],
    reads_data: bool = False,
    seeds: Sequence[int] = (0, 1, 2),
) -> None:
    """Read the command line, and run each arm with each seed or print the table.

    Args:
        description: text of the help.
        runs: file of the recorded runs; a run that it contains is skipped.
        arms: names of the arms.
        run_arm: function of arm, seed and arguments that returns the facts to record;
            ``arguments.work`` is the folder for trainings.
        render_table: function that returns the table of recorded runs.
        reads_data: True if the experiment reads ``arguments.data``.
        seeds: default of ``--seeds``.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if reads_data:
        parser.add_argument("--data", type=Path)
    work = Path("runs") / runs.parent.name
    parser.add_argument(
        "--work", type=Path, default=work, help="folder of trainings (default: %(default)s)"
    )
    parser.add_argument(
        "--runs", type=Path, default=runs, help="file of the recorded runs (default: %(default)s)"
    )
    parser.add_argument("--arms", nargs="+", default=list(arms), choices=arms, metavar="ARM")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(seeds))
    parser.add_argument("--table", action="store_true", help="print the table of the recorded runs")
    args = parser.parse_args()
    if args.table:
        print(render_table(read_runs(args.runs)))
        return
    if reads_data and args.data is None:
        parser.error("--data is missing")
    torch.set_num_threads(1)
    for seed in args.seeds:
        for arm in args.arms:
            if not is_recorded(args.runs, arm=arm, seed=seed):
                add_run(args.runs, {"arm": arm, "seed": seed, **run_arm(arm, seed, args)})
                print(f"{arm}, seed {seed}", flush=True)


def by_arm_and_seed(runs: Collection[dict]) -> dict[tuple[str, int], dict]:
    """Runs by arm and seed, in ascending order of seeds."""
    return {(run["arm"], run["seed"]): run for run in sorted(runs, key=lambda run: run["seed"])}


def with_interval(measure: Callable, values: np.ndarray, patients: list[str]) -> str:
    """A measure of counts (N, ...) of N crops, with its 95 % interval bootstrapped over
    patients.
    """
    low, high = percentile_interval(measure(resample_sums(values, patients)), patients)
    return f"{measure(values.sum(0)):.3f} ({low:.3f} to {high:.3f})"


def change_from(
    measure: Callable, before: np.ndarray, after: np.ndarray, patients: list[str]
) -> str:
    """The difference of a measure, paired by crop, with its 95 % interval bootstrapped over
    patients.
    """
    found = compare_scores(before, after, patients, measure)
    low, high = found["interval"]
    return f"{found['difference']:+.3f} ({low:+.3f} to {high:+.3f})"
