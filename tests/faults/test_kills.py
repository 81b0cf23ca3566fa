"""Runs that are killed at random moments, and continued by the other runner, give the bytes of an
undisturbed run.

`pytest -m slow tests/faults/test_kills.py --kills 100 --seed 1 -s` kills more often and prints what
each kill hit.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from itertools import cycle
from pathlib import Path

import psutil
import pytest
from undisturbed import assert_as_undisturbed
from workflow_runs import draw_stained_slide, find_steps, run_snakemake, snakemake_command, verb

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0)]  # no limit: the time depends on --kills

# What is killed: everything, as in a power cut; only Snakemake ("workflow"), so that its steps
# continue during the next run; or a single command ("step"), as by the kernel when memory runs out.
KINDS = ("everything", "workflow", "step")
MUSE_RUN = [str(Path(sys.executable).parent / "muse"), "run", "slides.tsv", "-o", "results"]


def test_killed_at_random_moments_the_bytes_are_the_same(undisturbed, untouched, request):
    n_kills, seed = request.config.getoption("kills"), request.config.getoption("seed")
    draw_stained_slide(untouched / "T.tif", size_px=640, n_nuclei=100)
    with (untouched / "slides.tsv").open(
        "a", encoding="utf-8"
    ) as sheet:  # a small slide, which is run in a batch
        sheet.write(f"T\t{untouched / 'T.tif'}\t1\n")
    draw, runners, seconds = random.Random(seed), cycle([snakemake_command(), MUSE_RUN]), {}
    hit: Counter[str] = Counter()
    n_finished = 0
    while hit.total() < n_kills:
        command, started = next(runners), time.monotonic()
        after_s = draw.uniform(0, seconds.get(command[-1], undisturbed.seconds))
        struck = strike(untouched, command, draw.choice(KINDS), after_s)
        if struck:
            hit[struck] += 1
            print(f"kill {hit.total()} of {n_kills}: {struck}", flush=True)
            continue
        psutil.wait_procs(find_orphans(untouched))  # this run ended before it could be killed
        assert_as_undisturbed(untouched, undisturbed)
        n_finished += 1
        seconds[command[-1]] = time.monotonic() - started
        print(f"run to the end, bytes equal: {n_finished}", flush=True)
        shutil.rmtree(untouched / "results")
    psutil.wait_procs(find_orphans(untouched))
    run = run_snakemake(untouched)
    assert run.returncode == 0, run.stdout
    assert_as_undisturbed(untouched, undisturbed)
    print(
        f"\n{hit.total()} kills, seed {seed}, {n_finished + 1} times run to the end, bytes equal"
        " each time"
    )
    for what, n in sorted(hit.items()):
        print(f"{n:5d}  {what}")


def strike(folder: Path, command: list[str], kind: str, after_s: float) -> str | None:
    """Start the workflow or `muse run` and kill it, or a part of the workflow, after some seconds.

    Returns:
        What was killed and which steps were running, or None if the run succeeded before the kill.
    """
    orphans = find_orphans(folder)
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    runner, kind = ("muse run", "everything") if command is MUSE_RUN else ("snakemake", kind)
    try:
        process.wait(timeout=after_s)
    except subprocess.TimeoutExpired:
        steps = find_steps(process)
    else:
        if (
            process.returncode and orphans
        ):  # a step fails if an orphan replaces the image that it reads
            psutil.wait_procs(orphans)
            return strike(folder, command, kind, after_s)
        assert process.returncode == 0, f"failed by itself, before it was killed, in {folder}"
        return None
    if kind == "step" and steps:
        victim = random.Random(len(steps)).choice(steps)
        name = verb(victim)
        victim.kill()
        process.wait()  # Snakemake finishes the other jobs, then fails
        return f"step {name}"
    names = ", ".join(sorted(verb(step) for step in steps)) or "no step"
    if kind == "workflow":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return f"{runner}, {'workflow' if kind == 'workflow' else 'everything'} during {names}"


def find_orphans(folder: Path) -> list[psutil.Process]:
    """The steps that are running in a folder; steps of a killed workflow run on until they end."""
    orphans = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cwd() == str(folder) and verb(process):
                orphans.append(process)
    return orphans
