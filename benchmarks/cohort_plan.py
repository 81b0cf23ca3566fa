"""How long Snakemake takes to plan a cohort before anything runs, and how much memory that needs.

    python benchmarks/cohort_plan.py OUT_DIR [--slides 1000 10000] [--output cohort_plan.json]

The slides are files of zeros, because planning opens no slide. Every cohort is planned four times
with `snakemake --dry-run`: as a new cohort, in the first of ten batches of the report's inputs,
with a sheet of a tenth of the slides, and with small slides, which are run in batches.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil

from muse_pipeline.workflow import SMALL_BYTES

SNAKEFILE = Path(__file__).parents[1] / "workflow/Snakefile"


def main() -> None:
    """Plan every cohort, and print and write the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="OUT_DIR")
    parser.add_argument("--slides", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    rows = []
    for n_slides in args.slides:
        folder = args.folder / str(n_slides)
        draw_cohort(folder, n_slides)
        for name, arguments in (
            ("new", []),
            ("report --batch report=1/10", ["--batch", "report=1/10", "--", "report"]),
            ("tenth of the sheet", ["--config", "slides=tenth.tsv"]),
            ("small slides", []),
        ):
            resize(folder, 1 if name == "small slides" else SMALL_BYTES)
            rows.append({"slides": n_slides, "plan": name, **plan(folder, arguments)})
            print(json.dumps(rows[-1]), flush=True)
    if args.output:
        args.output.write_text(json.dumps(rows, indent=1) + "\n")


def draw_cohort(folder: Path, n_slides: int) -> None:
    """Write a folder of slides, their sheet, and a sheet of a tenth of them."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "slides").mkdir(parents=True)
    names = [f"S{number:05d}" for number in range(n_slides)]
    for name in names:
        (folder / "slides" / f"{name}.svs").touch()
    for sheet, chosen in (("slides.tsv", names), ("tenth.tsv", names[: n_slides // 10])):
        lines = ["slide_id\tpath", *(f"{name}\tslides/{name}.svs" for name in chosen)]
        (folder / sheet).write_text("\n".join(lines) + "\n")
    (folder / "config.yaml").write_text("slides: slides.tsv\n")


def resize(folder: Path, n_bytes: int) -> None:
    """Set the size of all slides; their zeros occupy no disk."""
    for path in (folder / "slides").iterdir():
        os.truncate(path, n_bytes)


def plan(folder: Path, arguments: list[str]) -> dict:
    """Costs of a dry run: processor seconds until its table of jobs and in total, peak memory, and
    number of jobs.

    After the table, a dry run prints the details of every job; a real run prints them when the job
    starts.
    """
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(SNAKEFILE),
        "--configfile",
        "config.yaml",
    ]
    command += ["--cores", "1", "--dry-run", "--quiet", "rules", *arguments]
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    planned, lines = 0.0, []
    for line in process.stdout:
        if line.startswith("Job stats:") and not planned:
            times = psutil.Process(process.pid).cpu_times()
            planned = times.user + times.system
        lines.append(line)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit("".join(lines[-20:]))
    return {
        "planned_processor_seconds": round(planned, 1),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_memory_mib": usage.ru_maxrss // 1024,
        "jobs": next(int(line.split()[1]) for line in lines if line.startswith("total ")),
    }


if __name__ == "__main__":
    main()
