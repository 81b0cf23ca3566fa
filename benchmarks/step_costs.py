"""Processor seconds and peak memory of every step of a slide, and the growth of the memory with the
slide.

    python benchmarks/draw_slides.py big --areas-mm2 15 150 --sides-px 31623 100000
    python benchmarks/step_costs.py big/15mm2 big/150mm2 --threads 2 --output big/step_costs.json

Every step is a separate process. The memory is the largest resident set of the process. Seconds are
processor seconds, on which other work on the machine has little effect.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from muse_pipeline.cohort.sheet import read_sheet

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/support"))

from step_commands import step_commands, step_of


def main() -> None:
    """Measure and print the steps of every slide, and compare the memory of the last slide with
    that of the first.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folders", type=Path, nargs="+", metavar="FOLDER", help="a folder written by draw_slides.py"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--steps", nargs="+", help="measure only these; results of the other steps must exist"
    )
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    slides = {folder.name: measure(folder, args.threads, args.steps) for folder in args.folders}
    first, last = (slides[folder.name] for folder in (args.folders[0], args.folders[-1]))
    ratios = {step: round(last[step]["MiB"] / first[step]["MiB"], 3) for step in first}
    print(json.dumps({"memory of the last over the first": ratios}))
    if args.output:
        args.output.write_text(
            json.dumps({"threads": args.threads, "slides": slides, "ratios": ratios}, indent=1)
            + "\n"
        )


def measure(folder: Path, threads: int, chosen: list[str] | None) -> dict[str, dict]:
    """Costs of the steps of one slide by name; without ``chosen``, all steps are run into a new
    folder.
    """
    (row,) = read_sheet(folder / "slides.tsv")
    results = folder / "steps"
    if not chosen:
        shutil.rmtree(results, ignore_errors=True)
    costs = {}
    for arguments in step_commands(row.path, results / row.slide_id, threads):
        step = step_of(arguments)
        if chosen and step not in chosen:
            continue
        started = time.monotonic()
        process = subprocess.Popen([sys.executable, "-m", "muse_pipeline.cli.main", *arguments])
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{step} of {folder} fails")
        processor = usage.ru_utime + usage.ru_stime
        costs[step] = {
            "processor_seconds": round(processor, 2),
            "seconds": round(time.monotonic() - started, 2),
            "MiB": round(usage.ru_maxrss / 1024),
        }
        print(
            json.dumps({"slide": folder.name, "step": step, **costs[step]}),
            flush=True,
        )
    return costs


if __name__ == "__main__":
    main()
