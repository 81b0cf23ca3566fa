"""How many times Snakemake calls `sbatch` for a cohort on Slurm, and how long that takes.

    python benchmarks/cohort_slurm.py OUT_DIR [--slides 100 500] [--per-job 1 50] [--output \
        cohort_slurm.json]

Slurm is set up as in the tests (tests/support/slurm.py), with the real commands and controller. Its
nodes are drained, so that jobs are submitted but none starts; the slides are empty files. All jobs
are submitted at once (`--jobs`).
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from cohort_plan import SNAKEFILE, draw_cohort

TOP = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP / "tests/support"))

from slurm import Slurm  # noqa: E402

SETTLED_S = 30  # seconds without a call after which submission counts as complete


def main() -> None:
    """Submit every cohort, and print and write the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="OUT_DIR")
    parser.add_argument("--slides", type=int, nargs="+", default=[100, 500])
    parser.add_argument("--per-job", type=int, nargs="+", default=[1, 50])
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    rows = []
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # sockets need a short path
    slurm = Slurm(folder).start()
    try:
        calls = note_calls(slurm)
        slurm.call("scontrol", "update", "NodeName=ALL", "State=DRAIN", "Reason=count")
        for n_slides in args.slides:
            for per_job in args.per_job:
                draw_cohort(args.folder / str(n_slides), n_slides)
                rows.append({"slides": n_slides, "slides_per_job": per_job})
                rows[-1].update(
                    submit(slurm, args.folder / str(n_slides), calls, n_slides, per_job)
                )
                print(json.dumps(rows[-1]), flush=True)
    finally:
        slurm.stop()
        shutil.rmtree(folder, ignore_errors=True)
    if args.output:
        args.output.write_text(json.dumps(rows, indent=1) + "\n")


def note_calls(slurm: Slurm) -> Path:
    """Wrap `sbatch` in a script that appends the start time of every call to a file, and return
    that file.
    """
    calls, script = slurm.folder / "calls", slurm.folder / "bin/sbatch"
    script.write_text(
        f'#!/bin/sh\ndate +%s.%N >> {calls}\nexec {shutil.which("sbatch")} "$@"\n', "ascii"
    )
    script.chmod(0o755)
    return calls


def submit(slurm: Slurm, folder: Path, calls: Path, n_slides: int, per_job: int) -> dict:
    """Submit a cohort, end the run once no further jobs are submitted, and return its figures."""
    calls.write_text("")
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(SNAKEFILE),
        "--configfile",
        "config.yaml",
    ]
    command += ["--workflow-profile", str(TOP / "workflow/profiles/slurm"), "--jobs", str(n_slides)]
    command += ["--group-components", f"slide={per_job}"]
    started = time.time()
    with (folder / "output.txt").open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=slurm.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    times: list[float] = []
    while process.poll() is None and (not times or time.time() - times[-1] < SETTLED_S):
        time.sleep(1)
        times = [float(line) for line in calls.read_text().split()]
    used = psutil.Process(process.pid).cpu_times()
    process.send_signal(signal.SIGINT)
    process.wait()
    slurm.call("scancel", "--state=PENDING")
    return {
        "sbatch_calls": len(times),
        "seconds_until_the_first": round(times[0] - started, 1),
        "seconds_of_submission": round(times[-1] - times[0], 1),
        "processor_seconds": round(used.user + used.system, 1),
    }


if __name__ == "__main__":
    main()
