"""What experiments with arms share: training what has no JSON yet, or printing the table of the runs that exist."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Collection
from pathlib import Path

import torch


def run_arms(
    description: str,
    runs: Path,
    arms: Collection[str],
    run_arm: Callable[[str, int, argparse.Namespace], dict],
    render_table: Callable[[], str],
    reads_data: bool = False,
) -> None:
    """Read the command line and run every arm with every seed, or print the table.

    Args:
        description: of the experiment.
        runs: folder of the JSON files, <arm>-<seed>.json.
        arms: names.
        run_arm: (arm, seed, arguments) -> what its JSON contains; ``arguments.work`` is a folder for runs.
        render_table: of the JSON files.
        reads_data: whether the experiment reads ``arguments.data``.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if reads_data:
        parser.add_argument("--data", type=Path)
    work = Path("runs") / runs.name
    parser.add_argument("--work", type=Path, default=work, help="for runs (default: %(default)s)")
    parser.add_argument("--arms", nargs="+", default=list(arms), choices=arms, metavar="ARM")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--table", action="store_true", help="print the table of the runs that exist")
    args = parser.parse_args()
    if args.table:
        print(render_table())
        return
    if reads_data and args.data is None:
        parser.error("--data is missing")
    torch.set_num_threads(1)
    runs.mkdir(exist_ok=True)
    for seed in args.seeds:
        for arm in args.arms:
            result = runs / f"{arm}-{seed}.json"
            if not result.is_file():
                facts = {"arm": arm, "seed": seed, **run_arm(arm, seed, args)}
                result.write_text(json.dumps(facts) + "\n", encoding="utf-8")
                print(result, flush=True)
